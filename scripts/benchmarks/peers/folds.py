"""Folds of patients, the same for every method."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.split import in_drawn_order
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings
from sites.hospital import Hospital, hospital_of


def fold_of(hospitals: Sequence[Hospital], config: Settings, fold: int, folds: int) -> Hospital:
    """Return the cases of all hospitals as one hospital, split for a fold.

    Each hospital's patients are ordered by a hash of their identity, as in `split_patients`. In every group of `folds`
    patients, the one at position `fold` is a test patient. A share `data.validation_share` of the others is held out
    for validation.

    Raises
    ------
    ConfigError
        If a hospital has fewer patients than folds, or two hospitals have a case with the same name.
    """
    split = [_split(hospital, config, fold, folds) for hospital in hospitals]
    together = Hospital(
        site=replace(split[0].site, name="+".join(hospital.site.name for hospital in split)),
        training=_all([hospital.training for hospital in split]),
        test=_all([hospital.test for hospital in split]),
        validation=_all([hospital.validation for hospital in split]),
    )
    twice = [name for name, times in Counter(c.case.name for c in together.cases).items() if times > 1]
    if twice:
        raise ConfigError(f"{', '.join(twice)}: two hospitals have a case with this name: choose one with --site")
    return together


def _split(hospital: Hospital, config: Settings, fold: int, folds: int) -> Hospital:
    patients = {cached.case.patient for cached in hospital.cases}
    if len(patients) < folds:
        raise ConfigError(f"--folds: site {hospital.site.name} has {len(patients)} patients, fewer than {folds} folds")
    tested = set(in_drawn_order(patients)[fold::folds])
    names = tuple(cached.case.name for cached in hospital.cases if cached.case.patient in tested)
    return hospital_of(replace(hospital.site, test_cases=names, validation_cases=()), hospital.cases, config)


def _all(sides: Sequence[tuple[CachedCase, ...]]) -> tuple[CachedCase, ...]:
    return tuple(cached for side in sides for cached in side)
