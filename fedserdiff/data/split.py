"""The split of a site's patients into training, validation and test patients."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Settings, Site

Side = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """A site's training, validation and test patients, without overlap; `validation` may be empty."""

    training: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]

    def side_of(self, patient: str) -> Side:
        """Return the side that a patient of the site is on."""
        if patient in self.test:
            return "test"
        return "validation" if patient in self.validation else "training"


def split_patients(site: Site, patients: Mapping[str, str], config: Settings) -> Split:
    """Split a site's patients, in the same way on every machine and for every seed.

    A site's `test_cases` and `validation_cases` name the patients of these splits. If a site names none, it holds out
    the shares `data.test_share` and `data.validation_share` of all its patients, rounded, at least one patient each;
    a validation share of 0 holds out nobody. Patients are ordered by a hash of their identity, so the split does not
    follow the order of enrolment. Test patients are taken first, so that they do not depend on the validation share.
    All scans of a patient are in the same split.

    Parameters
    ----------
    site : Site
        Site whose `test_cases` and `validation_cases` are used.
    patients : mapping of str to str
        Patient of each of the site's cases, by case name.
    config : Settings
        Settings with the shares, and with the scores that are requested.

    Raises
    ------
    DataError
        If a named case is missing or in two splits, a patient would be in two splits, or a split has no patients left;
        and if `scoring.patients`, `scoring.least_from` or `training.validate_every` needs validation patients and there
        are none.
    """
    where = f"site {site.name}"
    twice = sorted(set(site.test_cases) & set(site.validation_cases))
    if twice:
        raise DataError(f"{where}: validation_cases: {', '.join(twice)}: also in test_cases: name each case once")
    test = _named(patients, site.test_cases, f"{where}: test_cases")
    validation = _named(patients, site.validation_cases, f"{where}: validation_cases")
    ordered = in_drawn_order(set(patients.values()))
    validating = bool(validation) or config.data.validation_share > 0
    if len(ordered) < 2 + validating:
        sides = "training, validation and test" if validating else "training and test"
        count = f"{len(ordered)} patient{'' if len(ordered) == 1 else 's'}"
        raise DataError(f"{where}: {count} cannot be split into {sides}; at least {2 + validating} are needed")
    if not test:
        test = _first(ordered, config.data.test_share, validation, f"{where}: data.test_share")
    if not validation and validating:
        validation = _first(ordered, config.data.validation_share, test, f"{where}: data.validation_share")
    training = frozenset(ordered) - test - validation
    if not training:
        fields = "test_cases, validation_cases" if site.validation_cases else "test_cases"
        raise DataError(f"{where}: {fields}: every patient is held out, none is left for training")
    if not validation and (wanted := _wants_validation(config)):
        raise DataError(
            f"{where}: {wanted}, but no patient is held out for it: set data.validation_share, or name the site's "
            "validation_cases"
        )
    return Split(training, validation, test)


def in_drawn_order(patients: Collection[str]) -> list[str]:
    """Return patients in the order of a hash of their identity, which is unrelated to enrolment."""
    return sorted(patients, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())


def _wants_validation(config: Settings) -> str:
    """Return the setting that needs validation patients, with its value, or an empty text."""
    for name in ("patients", "least_from"):
        if getattr(config.scoring, name) == "validation":
            return f"scoring.{name}: validation"
    every = config.training.validate_every
    return f"training.validate_every: {every}" if every else ""


def _named(patients: Mapping[str, str], cases: Sequence[str], where: str) -> frozenset[str]:
    """Return the patients of the cases named for one split."""
    missing = sorted(set(cases) - set(patients))
    if missing:
        raise DataError(f"{where}: no case {', '.join(missing)} here")
    named = frozenset(patients[case] for case in cases)
    torn = sorted(case for case, patient in patients.items() if patient in named and case not in cases)
    if torn:
        raise DataError(f"{where}: {', '.join(torn)}: another scan of this patient is held out: name all of them")
    return named


def _first(ordered: Sequence[str], share: float, taken: Collection[str], where: str) -> frozenset[str]:
    """Return a share of all patients, from the first that are free; at least one stays free for training."""
    free = [patient for patient in ordered if patient not in taken]
    if len(free) < 2:
        left = f"{len(free)} of {len(ordered)} patients {'is' if len(free) == 1 else 'are'} left"
        raise DataError(f"{where}: {left} to hold out and train on; at least 2 are needed: hold out fewer others")
    return frozenset(free[: min(max(1, round(len(ordered) * share)), len(free) - 1)])
