"""The hospitals of a simulation, found, prepared and checked on this machine."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from fedserdiff.data.cases import SkippedCase
from fedserdiff.data.name_mapping import read_name_mapping
from fedserdiff.data.overlap import Overlap, find_overlap, overlap_record
from fedserdiff.data.site_cases import passed_over_note
from fedserdiff.errors import BadCasesError, ConfigError, DataError, one_of
from fedserdiff.experiment_file import PHANTOM
from fedserdiff.federation import name_mapping_of, phantom_federation, read_federation
from fedserdiff.origin import Scans
from fedserdiff.report.bad_cases import bad_cases_table, with_list
from fedserdiff.report.console import print_table, progress_bars, warn
from fedserdiff.report.overlap import skipped_note
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.text import first_few, readable
from sites.hospital import Hospital, hospital_of, open_hospital, remaining
from strategies.run_directory import RunDirectory

_MOST_TOLD = 5  # overlaps of a site in an error message

CACHE = "FEDSERDIFF_CACHE"
"""Environment variable with the cache folder."""


def _cache_folder() -> Path:
    """Return the folder from the environment, or this program's folder in the user's cache."""
    named, caches = os.environ.get(CACHE), os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(named) if named else Path(caches) / "fedserdiff"


@dataclass(frozen=True)
class Cache:
    """The folder of phantom scans and prepared cases, which is safe to delete."""

    root: Path = field(default_factory=_cache_folder)

    @classmethod
    def at(cls, folder: Path | None) -> "Cache":
        """Return the cache in a folder, or the default one."""
        return cls() if folder is None else cls(folder)

    @property
    def prepared(self) -> Path:
        """Folder of prepared cases."""
        return self.root / "cases"

    @property
    def phantoms(self) -> Path:
        """Folder of phantom scans."""
        return self.root / PHANTOM


RUNS = Path("runs")
"""Parent folder of runs without a given directory."""

Hospitals = Path | tuple[Site, ...] | None
"""Hospitals with their own scans: an experiment file or a tuple of sites; None for phantoms."""

OWN = "own"
"""Name of data that no file names."""

PHANTOM_SITES = 3
"""Default number of phantom hospitals."""


@dataclass(frozen=True)
class Federation:
    """Checked hospitals of a simulation; `config` names exactly their cases.

    `overlaps` are cases of patients who are in the federation already: left out, or kept if `config` allows it.
    `same_patient` maps patient ids to persons, from a name mapping. `data` is the name of the data. `before` is the
    ``overlap`` of a resumed run, whose config no longer names the cases left out. `skipped` are unusable cases.
    `show_cases` says whether the user asked for pictures of cases.
    """

    config: Settings
    hospitals: tuple[Hospital, ...]
    overlaps: tuple[Overlap, ...]
    same_patient: Mapping[str, str] = field(default_factory=dict)
    data: str = PHANTOM
    before: Mapping[str, Any] | None = None
    skipped: tuple[SkippedCase, ...] = ()
    show_cases: bool = False

    @property
    def shows_cases(self) -> bool:
        """Whether files may show a case: phantoms always, patients only on request.

        All code that draws cases checks this first.
        """
        return self.show_cases or self.data == PHANTOM

    def scans_of(self, config: Settings) -> Scans:
        """Return the hashes of a config's scans at these hospitals; its sites may name fewer of their cases."""
        opened = {hospital.site.name: hospital for hospital in self.hospitals}
        return scans_of(
            hospital_of(site, [c for c in opened[site.name].cases if c.case.name in set(site.cases)], config)
            for site in config.sites
        )

    @property
    def case_counts(self) -> dict[str, dict[str, int]]:
        """Exact case counts by site, as in `Hospital.counts`."""
        return {h.site.name: h.counts for h in self.hospitals}

    def overlap_of(self, config: Settings) -> dict[str, Any]:
        """Return the ``overlap`` entry of ``results.json`` for a run on this federation or part of its cases."""
        if self.before is not None:
            return dict(self.before)
        taken = {site.name: site.cases for site in config.sites}
        if not config.data.allow_overlap:
            return overlap_record([overlap for overlap in self.overlaps if overlap.site in taken], kept=False)
        everyone = {h.site.name: h.cases for h in self.hospitals if h.site.name in taken}
        there = {n: [c for c in cases if c.case.name in (taken[n] or c.case.name)] for n, cases in everyone.items()}
        return overlap_record(find_overlap(there, self.same_patient), kept=True)

    def skipped_of(self, config: Settings) -> list[dict[str, Any]]:
        """Return the ``skipped`` entry of ``results.json`` for a run on this federation or part of its sites."""
        names = {site.name for site in config.sites}
        return [{**asdict(case), "faults": [*case.faults]} for case in self.skipped if case.site in names]


def open_federation(
    config: Settings,
    sites: tuple[Site, ...],
    cache: Path,
    progress: Callable[[str, int, int], None] = lambda site, done, total: None,
    same_patient: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> Federation:
    """Check and prepare every site's cases; leave out patients who are there already unless `config` keeps them.

    Raises
    ------
    DataError
        As in `open_hospital`, for all sites at once, and if a site has no case left. A `BadCasesError` if cases cannot
        be used; `skip_bad` helps if nothing else is wrong.
    """
    same_patient = same_patient or {}
    found = _open_all(sites, config, cache, progress, skip_bad)
    overlaps = find_overlap({name: hospital.cases for name, hospital in found.items()}, same_patient)
    hospitals = []
    for site in sites:
        left_out = set() if config.data.allow_overlap else {o.case for o in overlaps if o.site == site.name}
        named, kept = remaining(found[site.name], left_out)
        try:
            hospitals.append(hospital_of(named, kept, config))
        except DataError as error:
            gone = [str(overlap) for overlap in overlaps if overlap.site == site.name]
            raise DataError(
                f"{error}. Left out: {first_few(gone, _MOST_TOLD, '; ')}. Give {site.name} other patients, leave it "
                "out, or keep them with --allow-overlap, which leaks into the test set"
            ) from None
    config = config.replace(sites=tuple(h.site for h in hospitals))
    skipped = tuple(case for hospital in found.values() for case in hospital.skipped)
    return Federation(config, tuple(hospitals), tuple(overlaps), same_patient, skipped=skipped)


def _open_all(
    sites: Iterable[Site], config: Settings, cache: Path, progress: Callable[[str, int, int], None], skip_bad: bool
) -> dict[str, Hospital]:
    """Open every site by name; raise one error for everything that `open_hospital` rejects."""
    found: dict[str, Hospital] = {}
    refused: list[DataError] = []
    for site in sites:
        try:
            found[site.name] = open_hospital(site, config, cache, partial(progress, site.name), skip_bad)
        except DataError as error:
            refused.append(error)
    if refused:
        raise one_of(refused)
    return found


def open_named(
    console: Console,
    config: Settings,
    named: Hospitals,
    sites: int | None,
    cache: Cache,
    skip_bad: bool | None = None,
    show_cases: bool = False,
    beside: Path = RUNS,
) -> Federation:
    """Open the named hospitals, or otherwise `sites` phantom ones (3 by default), and show progress.

    `skip_bad` leaves out unusable cases; None is for a command without such an option. If unusable cases are not left
    out, a list of them is written into the folder `beside`.

    Raises
    ------
    FedSerDiffError
        As in `read_federation`, `read_name_mapping`, `phantom_federation` and `open_federation`, and if a federation
        file has the name of the phantom data.
    """
    if isinstance(named, Path) and named.name == PHANTOM:
        raise ConfigError(f"{named}: {PHANTOM} is the name of phantom data; give the file another name")
    same_patient: dict[str, str] = {}
    with progress_bars(console) as show:
        if named is None:
            of_all = phantom_federation(
                PHANTOM_SITES if sites is None else sites,
                config,
                cache.phantoms,
                lambda s, d, t: show(f"scanning phantoms of {s}", d, t),
            )
        elif isinstance(named, Path):
            of_all, same_patient = read_federation(named), same_patient_of(named)
        else:
            of_all = named
        try:
            opened = open_federation(
                config,
                of_all,
                cache.prepared,
                lambda s, d, t: show(f"preparing cases of {s}", d, t),
                same_patient,
                bool(skip_bad),
            )
        except BadCasesError as error:
            helps = skip_bad is not None and not error.others
            advice = "Repair these cases, or leave them out with --skip-bad" if helps else ""
            raise with_list(error, beside, advice) from None
    if opened.skipped:
        print_table(console, bad_cases_table([row for case in opened.skipped for row in case.rows]))
        warn(console, skipped_note(opened.skipped))
    what = "[red]kept, which leaks:[/red]" if config.data.allow_overlap else "[yellow]left out[/yellow]"
    for overlap in opened.overlaps:
        console.print(f"{what} {escape(str(overlap))}")
    for hospital in opened.hospitals:
        console.print(f"{hospital.site.name}: {hospital.site.release}, {hospital.counted}")
    for note in filter(None, map(passed_over_note, of_all)):
        warn(console, note)
    return replace(opened, data=data_name(named), show_cases=show_cases)


def data_name(named: Hospitals) -> str:
    """Return the name of the hospitals' data in tables."""
    if named is None:
        return PHANTOM
    return readable(named.name) if isinstance(named, Path) else OWN


def reopen(console: Console, run: RunDirectory, cache: Cache, config: Settings | None = None) -> Federation:
    """Open the hospitals of a run with exactly the run's cases, to resume or audit it.

    `config` is the run's config for this machine: where it runs and where its sites' scans are may have changed.

    Raises
    ------
    ConfigError
        As in `RunDirectory.read_origin`, and if a setting, the software or a scan has changed, or scans are not where
        `config` says.
    DataError
        As in `open_hospital`.
    """
    origin = run.read_origin()
    config = config or origin.config
    different = origin.difference(config, origin.scans)
    if different.versions:
        made = "; ".join(different.versions)
        raise ConfigError(f"{run.path}: was started with other versions: {made}; install those to continue")
    if different:
        raise ConfigError(f"{run.path}: belongs to another run: {different}")
    with progress_bars(console) as show:
        if origin.name == PHANTOM:  # phantoms may have been deleted with the cache
            root = Path(config.sites[0].path).parent
            phantom_federation(len(config.sites), config, root, lambda s, d, t: show(f"scanning phantoms of {s}", d, t))
        for site in config.sites:
            if not Path(site.path).is_dir():
                raise ConfigError(
                    f"site {site.name}: {site.path}: no such directory; if its scans have moved, write the current "
                    "paths of all sites' scans into a federation file and continue with simulate FILE --resume "
                    f"{run.path}"
                )
        try:
            found = _open_all(
                config.sites, config, cache.prepared, lambda s, d, t: show(f"preparing cases of {s}", d, t), False
            )
        except BadCasesError as error:
            raise with_list(error, run.path.parent) from None
    hospitals = tuple(found.values())
    changed = origin.difference(config, scans_of(hospitals))
    if changed:
        raise ConfigError(f"{run.path}: {changed} since it began")
    skipped = tuple(SkippedCase(**case) for case in origin.skipped)
    return Federation(config, hospitals, (), {}, origin.name, origin.overlap, skipped, origin.show_cases)


def scans_of(hospitals: Iterable[Hospital]) -> Scans:
    """Return, by site, a hash of the content of all its scans and segmentations and of its patient split."""
    return {
        hospital.site.name: hashlib.sha256(
            "; ".join(
                " ".join(sorted(f"{c.case.name}={c.key}" for c in cases))
                for cases in (hospital.training, hospital.test, hospital.validation)
                if cases
            ).encode()
        ).hexdigest()
        for hospital in hospitals
    }


def same_patient_of(federation: Path) -> dict[str, str]:
    """Return the person by patient id from a federation file's name mapping; empty without one.

    Raises
    ------
    ConfigError
        As in `name_mapping_of` and `read_name_mapping`.
    """
    file = name_mapping_of(federation)
    return {} if file is None else read_name_mapping(file)
