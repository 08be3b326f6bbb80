"""A hospital's own data: its cases, split by patient, prepared and stored on its own disk."""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import BadCases, Case, SkippedCase, settle
from fedserdiff.data.site_cases import patient_of, site_cases
from fedserdiff.data.split import Split, split_patients
from fedserdiff.errors import BadCasesError, DataError
from fedserdiff.settings.experiment import Settings, Site


@dataclass(frozen=True)
class Hospital:
    """A site and its prepared cases; no patient is in two of the splits.

    `validation` is empty unless the settings or the site define validation patients. `skipped` are unusable cases.
    """

    site: Site
    training: tuple[CachedCase, ...]
    test: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...] = ()
    skipped: tuple[SkippedCase, ...] = ()

    @property
    def cases(self) -> tuple[CachedCase, ...]:
        """All cases, ordered by name."""
        everyone = (*self.training, *self.validation, *self.test)
        return tuple(sorted(everyone, key=lambda cached: cached.case.name))

    @property
    def counts(self) -> dict[str, int]:
        """Number of training, validation (if there are any) and test cases."""
        validation = {"validation": len(self.validation)} if self.validation else {}
        return {"training": len(self.training), **validation, "test": len(self.test)}

    @property
    def counted(self) -> str:
        """The counts in words."""
        *first, last = (f"{count} {side}" for side, count in self.counts.items())
        return f"{', '.join(first)} and {last} cases"

    def scored(self, config: Settings) -> tuple[CachedCase, ...]:
        """Return the cases whose scores a run of `config` reports; all scoring uses this."""
        return self.validation if config.scoring.patients == "validation" else self.test


def open_hospital(
    site: Site,
    config: Settings,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    skip_bad: bool = False,
) -> Hospital:
    """Find, check and prepare a site's cases, and split them by patient.

    With `skip_bad`, unusable cases are left out. The hospital's site then names the others, and everybody stays in the
    split that they would have been in with all cases.

    Raises
    ------
    DataError
        As in `site_cases` and `split_patients`. Every fault begins with the site's name.
    BadCasesError
        Without `skip_bad`, for all unusable cases. With it, if too few cases are left.
    """
    bad: BadCases = {}
    skipped: list[SkippedCase] = []
    try:
        cases = site_cases(site, config, bad)
        if not bad:
            split_cases(site, cases, config)  # before hours of preparation
        ready = cached_cases(cases, config.data.grid, config.data.spacing_mm, cache, progress, bad)
    except DataError as error:
        name = f"site {site.name}: "
        raise DataError(*(name + fault.removeprefix(name) for fault in error.faults)) from None
    if bad and skip_bad:
        site, skipped = _without(site, cases, bad, config)
    else:
        settle(bad, None, site.name)
    return replace(hospital_of(site, ready, config), skipped=tuple(skipped))


def _without(site: Site, cases: Sequence[Case], bad: BadCases, config: Settings) -> tuple[Site, list[SkippedCase]]:
    """Return the site without its bad cases, with everybody in the same split as before, and the bad cases."""
    patients = {case.name: case.patient for case in cases} | {name: patient_of(site, name) for name in bad}
    split = split_patients(site, patients, config)
    sides = {name: split.side_of(patient) for name, patient in patients.items()}
    skipped = [SkippedCase(site.name, name, sides[name], bad[name]) for name in sorted(bad)]
    kept = {side: tuple(sorted(n for n in patients if n not in bad and sides[n] == side)) for side in sides.values()}
    if not all(kept.values()):
        what = "training, validation and testing" if split.validation else "training and testing"
        too_few = f"site {site.name}: too few usable cases for {what}"
        raise BadCasesError(*(row for case in skipped for row in case.rows), others=[too_few])
    left = replace(
        site,
        cases=tuple(sorted(itertools.chain.from_iterable(kept.values()))),
        test_cases=kept["test"],
        validation_cases=kept.get("validation", ()),
    )
    return left, skipped


def hospital_of(site: Site, cases: Sequence[CachedCase], config: Settings) -> Hospital:
    """Split a site's prepared cases by patient.

    Raises
    ------
    DataError
        As in `split_patients`.
    """
    split = split_cases(site, [c.case for c in cases], config)
    return Hospital(
        site=site,
        training=tuple(c for c in cases if c.case.patient in split.training),
        test=tuple(c for c in cases if c.case.patient in split.test),
        validation=tuple(c for c in cases if c.case.patient in split.validation),
    )


def leave_out(hospital: Hospital, names: Collection[str], config: Settings) -> Hospital:
    """Return the hospital without the cases of these names, with its other patients split again.

    Raises
    ------
    DataError
        As in `remaining` and `hospital_of`.
    """
    return hospital_of(*remaining(hospital, names), config) if names else hospital


def remaining(hospital: Hospital, names: Collection[str]) -> tuple[Site, list[CachedCase]]:
    """Return the site without the cases of these names, and its remaining cases ordered by name.

    Raises
    ------
    DataError
        If no case is left, or none of the site's `test_cases` or `validation_cases`.
    """
    site = hospital.site
    kept = [c for c in hospital.cases if c.case.name not in names]
    if not kept:
        raise DataError(f"site {site.name}: an earlier site brought all of its patients, so nothing is left")
    left: dict[str, Any] = {}
    for field in ("test_cases", "validation_cases"):
        named = getattr(site, field)
        left[field] = tuple(case for case in named if case not in names)
        if named and not left[field]:
            raise DataError(f"site {site.name}: an earlier site brought every patient of its {field}")
    return replace(site, cases=tuple(c.case.name for c in kept), **left), kept


def split_cases(site: Site, cases: Sequence[Case], config: Settings) -> Split:
    """Return a site's patient split; raise as `split_patients` does."""
    return split_patients(site, {case.name: case.patient for case in cases}, config)
