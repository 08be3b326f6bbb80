"""Audit of patients who are in a federation more than once: ``fedserdiff audit overlap``."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import BadCases, settle
from fedserdiff.data.overlap import Overlap, find_overlap
from fedserdiff.data.site_cases import passed_over_note, site_cases
from fedserdiff.errors import BadCasesError, DataError, one_of
from fedserdiff.experiments.opened_federation import RUNS, Cache, same_patient_of
from fedserdiff.federation import read_federation
from fedserdiff.report.bad_cases import with_list
from fedserdiff.report.console import print_table, progress_bars, warn
from fedserdiff.settings.experiment import Settings, Site


def show_overlap(console: Console, federation: Path, config: Settings, cache: Cache) -> None:
    """Print the cases in a federation file that belong to patients who are there already.

    Parameters
    ----------
    console : Console
        Console to print to.
    federation : Path
        The TOML file.
    config : Settings
        Settings with the working grid that cases are prepared for. The grid does not affect what is found, only which
        prepared cases can be reused.
    cache : Cache
        Cache of prepared cases.

    Raises
    ------
    ConfigError
        As in `read_federation` and `same_patient_of`.
    DataError
        As in `site_cases` and `cached_cases`; the text begins with the site's name. Unusable cases are listed in a
        file in the folder of runs.
    """
    sites = read_federation(federation)
    same_patient = same_patient_of(federation)
    found: dict[str, list[CachedCase]] = {}
    refused: list[DataError] = []
    with progress_bars(console) as show:
        for site in sites:
            try:
                found[site.name] = _cases(site, config, cache, partial(show, f"preparing cases of {site.name}"))
            except DataError as error:
                refused.append(error)
    if refused:
        every = one_of(refused)
        raise with_list(every, RUNS) if isinstance(every, BadCasesError) else every
    for note in filter(None, map(passed_over_note, sites)):
        warn(console, note)
    overlaps = find_overlap(found, same_patient)
    if overlaps:
        print_table(console, _table(overlaps))
    for sentence in _summary(overlaps, sum(map(len, found.values())), len(found)):
        console.print(sentence, soft_wrap=True)


def _cases(site: Site, config: Settings, cache: Cache, progress: Callable[[int, int], None]) -> list[CachedCase]:
    """Find and prepare a site's cases; an audit needs no patient split."""
    bad: BadCases = {}
    try:
        cases = site_cases(site, config, bad)
        ready = cached_cases(cases, config.data.grid, config.data.spacing_mm, cache.prepared, progress, bad)
    except DataError as error:
        raise DataError(*(f"site {site.name}: {fault}" for fault in error.faults)) from None
    settle(bad, None, site.name)
    return ready


def _table(overlaps: Sequence[Overlap]) -> Table:
    table = Table(title="Patients who are there already", title_justify="left", title_style="bold")
    for column in ("site", "case", "same as", "at site", "found by"):
        table.add_column(column, overflow="fold")
    for one in overlaps:
        table.add_row(*map(escape, (one.site, one.case, one.first_case, one.first_site, one.found_by)))
    return table


def _summary(overlaps: Sequence[Overlap], cases: int, sites: int) -> list[str]:
    elsewhere = sum(one.site != one.first_site for one in overlaps)
    twice = len(overlaps) - elsewhere
    sentences = ["no patient is at two sites"]
    if elsewhere:
        case, are = ("case", "is") if elsewhere == 1 else ("cases", "are")
        sentences = [f"{elsewhere} {case} of {cases} at {sites} sites {are} at an earlier site already"]
    if twice:
        sentences.append(f"{twice} case{' is' if twice == 1 else 's are'} at the same site under another name already")
    if overlaps:
        sentences.append("A run leaves them out; --allow-overlap keeps them and marks the results as leaking.")
    return sentences
