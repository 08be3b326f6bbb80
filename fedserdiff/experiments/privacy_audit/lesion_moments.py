"""Membership attack on the moments of a hospital's lesions, with its controls."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.experiments.privacy_audit.attacks import CALIBRATED, Finding, finding
from fedserdiff.experiments.privacy_audit.models import Target, patients_of, rng_for
from fedserdiff.lesions.moments import moments_of
from fedserdiff.privacy.moments import inner_products
from fedserdiff.settings.experiment import Settings

MOMENTS, INNER_PRODUCT = "lesion moments", "inner product" + CALIBRATED
OF_TWO, NEVER_AVERAGED = "lesion moments of two patients", "lesion moments that never saw them"
"""Channels of the controls: the first must leak, the second must not."""

_LEAST_PATIENTS = 5  # default minimum of patients for which lesion replay shares moments
_FEWEST_OTHERS = 3  # patients not averaged: a population, and someone to compare with it


def attack_moments(target: Target, config: Settings) -> Iterator[Finding]:
    """Attack the means of a stage's lesions: which patients were averaged?"""
    members = patients_of(target.hospital.training)
    yield from _ask(MOMENTS, members, target.hospital.training, patients_of(target.others), target, config)


def control_moments(target: Target, config: Settings) -> Iterator[Finding]:
    """Attack the means of two patients, and attack with members who are not in the hospital's means."""
    members, others = patients_of(target.hospital.training), patients_of(target.others)
    two = [case for cases in members[:2] for case in cases]
    yield from _ask(OF_TWO, members[:2], two, others, target, config, least=1)
    yield from _ask(NEVER_AVERAGED, others[::2], target.hospital.training, others[1::2], target, config)


def _ask(
    channel: str,
    members: Sequence[Sequence[CachedCase]],
    averaged: Sequence[CachedCase],
    others: Sequence[Sequence[CachedCase]],
    target: Target,
    config: Settings,
    least: int | None = None,
) -> Iterator[Finding]:
    """Attack the means of the averaged cases; yield nothing if too few other patients exist."""
    if len(others) < _FEWEST_OTHERS or not members:
        return
    spacing_mm, rng = config.data.spacing_mm, rng_for(config, channel, INNER_PRODUCT, target.stage)
    agreed: int = getattr(config.method, "least_patients", _LEAST_PATIENTS)
    shared = moments_of(averaged, spacing_mm, least or agreed).means.astype(np.float64)
    own = np.stack([_means(cases, spacing_mm) for cases in (*members, *others)])
    is_member = np.arange(len(own)) < len(members)
    scores = inner_products(own, is_member, shared, rng)
    yield finding(channel, INNER_PRODUCT, target, scores[: len(members)], scores[len(members) :], rng)


def _means(cases: Sequence[CachedCase], spacing_mm: float) -> NDArray[np.float64]:
    """Return the means of a patient's classes, NaN for classes that the patient does not have."""
    alone = moments_of(cases, spacing_mm, least=1)
    means = alone.means.astype(np.float64)
    means[alone.extent[:, 0] == 0] = np.nan
    return means
