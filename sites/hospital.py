"""One hospital's own data: its cases, split by patient, prepared and held on its own disk."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import BadCases, Case, SkippedCase, hold_out, settle, split_patients
from fedserdiff.data.site_cases import patient_of, site_cases
from fedserdiff.errors import BadCasesError, DataError
from fedserdiff.settings.experiment import Settings, Site


@dataclass(frozen=True)
class Hospital:
    """A site and its prepared cases; no patient is in both lists. `skipped` are cases that it could not prepare."""

    site: Site
    training: tuple[CachedCase, ...]
    test: tuple[CachedCase, ...]
    skipped: tuple[SkippedCase, ...] = ()

    @property
    def cases(self) -> tuple[CachedCase, ...]:
        """All of them, by name."""
        return tuple(sorted((*self.training, *self.test), key=lambda cached: cached.case.name))


def open_hospital(
    site: Site,
    config: Settings,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    skip_bad: bool = False,
) -> Hospital:
    """Find, check and prepare a site's cases, and split them by patient.

    With `skip_bad`, cases that cannot be used are left out: the hospital's site names the others, and holds out those
    that it would have held out with all.

    Raises
    ------
    DataError
        As `site_cases`, `hold_out` and `split_patients`. Every fault begins with the site's name.
    BadCasesError
        Without `skip_bad`: of all cases that cannot be used. With it, where too few cases are left.
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
    """Return the site without its bad cases, who is trained and tested on staying where they are; and those cases."""
    patients = {case.name: case.patient for case in cases} | {name: patient_of(site, name) for name in bad}
    if site.test_cases:
        held_out = set(site.test_cases)
    else:
        _, test = split_patients(patients.values(), config.data.test_share, site.name)
        held_out = {name for name, patient in patients.items() if patient in test}
    skipped = [SkippedCase(site.name, name, name in held_out, bad[name]) for name in sorted(bad)]
    kept = sorted(set(patients) - set(bad))
    if not held_out - set(bad) or not set(kept) - held_out:
        too_few = f"site {site.name}: too few cases can be used to train and to test on"
        raise BadCasesError(*(row for case in skipped for row in case.rows), others=[too_few])
    return replace(site, cases=tuple(kept), test_cases=tuple(sorted(held_out - set(bad)))), skipped


def hospital_of(site: Site, cases: Sequence[CachedCase], config: Settings) -> Hospital:
    """Split a site's prepared cases by patient.

    Raises
    ------
    DataError
        As `hold_out` and `split_patients`.
    """
    training, test = split_cases(site, [c.case for c in cases], config)
    return Hospital(
        site=site,
        training=tuple(c for c in cases if c.case.patient in training),
        test=tuple(c for c in cases if c.case.patient in test),
    )


def leave_out(hospital: Hospital, names: Collection[str], config: Settings) -> Hospital:
    """Return the hospital without the cases of these names, its other patients split anew.

    Raises
    ------
    DataError
        As `remaining` and `hospital_of`.
    """
    return hospital_of(*remaining(hospital, names), config) if names else hospital


def remaining(hospital: Hospital, names: Collection[str]) -> tuple[Site, list[CachedCase]]:
    """Return what is left without the cases of these names: the site, which names them, and its cases by name.

    Raises
    ------
    DataError
        Where no case is left, or none of the site's `test_cases`.
    """
    site = hospital.site
    kept = [c for c in hospital.cases if c.case.name not in names]
    if not kept:
        raise DataError(f"site {site.name}: an earlier site brought every one of its patients: nothing is left")
    held_out = tuple(case for case in site.test_cases if case not in names)
    if site.test_cases and not held_out:
        raise DataError(f"site {site.name}: an earlier site brought every patient of its test_cases")
    return replace(site, cases=tuple(c.case.name for c in kept), test_cases=held_out), kept


def split_cases(site: Site, cases: Sequence[Case], config: Settings) -> tuple[set[str], set[str]]:
    """Return a site's patients to train on, and those to test on.

    Raises
    ------
    DataError
        As `hold_out` and `split_patients`.
    """
    if site.test_cases:
        return hold_out(cases, site.test_cases, site.name)
    return split_patients((case.patient for case in cases), config.data.test_share, site.name)
