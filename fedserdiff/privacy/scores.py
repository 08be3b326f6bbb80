"""The success of an attack in telling members from others: AUC, TPR at a low FPR, and intervals over patients."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedserdiff.evaluation.bootstrap import Interval

Scores = NDArray[np.float64]
"""An attack's score of each item of one patient; higher scores suggest membership."""

_REPLICATES = 1000


def auc(members: Sequence[Scores], others: Sequence[Scores], rng: np.random.Generator) -> Interval:
    """Return the probability that a member's item scores above a non-member's; ties count half, 0.5 is guessing.

    It comes with a 95 % bootstrap interval over patients; a drawn patient contributes all its items. With few patients
    the interval is too narrow, since n patients show only (n − 1)/n of their variance. One patient has no interval.

    Parameters
    ----------
    members, others : sequence of array of float64
        Scores by patient: at least one patient each, with at least one item.
    rng : numpy Generator
        Generator for the bootstrap.
    """
    first, last = np.concatenate(members), np.cumsum([0, *map(len, members)])[:-1]
    wins = np.empty((len(members), len(others)))  # pairs of items in the right order, by the two patients
    for place, other in enumerate(map(np.sort, others)):
        above = (np.searchsorted(other, first, "left") + np.searchsorted(other, first, "right")) / 2
        wins[:, place] = np.add.reduceat(above, last)
    sizes = [np.array([len(items) for items in group]) for group in (members, others)]
    value = float(wins.sum() / (sizes[0].sum() * sizes[1].sum()))
    if min(len(members), len(others)) < 2:
        return Interval(value, None, None)
    one, two = (rng.multinomial(n, np.full(n, 1 / n), _REPLICATES) for n in (len(members), len(others)))
    drawn = ((one @ wins) * two).sum(1) / ((one @ sizes[0]) * (two @ sizes[1]))
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean_of(values: Sequence[float], rng: np.random.Generator) -> Interval:
    """Return a mean with its 95 % bootstrap interval over values, one per patient; one value has no interval."""
    found = np.array(values)
    if len(found) < 2:
        return Interval(float(found.mean()), None, None)
    drawn = rng.choice(found, (_REPLICATES, len(found))).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(float(found.mean()), float(low), float(high))


def tpr_at(
    fpr: float, members: Sequence[Scores], others: Sequence[Scores], rng: np.random.Generator
) -> Interval | None:
    """Return the TPR: the share of members' items above the threshold that a share `fpr` of others' items exceed.

    The interval is as for `auc`. The result is None with fewer than 1 / `fpr` items of others, because then none of
    them may exceed the threshold, which is unknown.
    """
    if fpr * sum(map(len, others)) < 1:
        return None
    value = _tpr(fpr, np.concatenate(members), np.concatenate(others))
    if min(len(members), len(others)) < 2:
        return Interval(value, None, None)
    drawn = [_tpr(fpr, _resampled(members, rng), _resampled(others, rng)) for _ in range(_REPLICATES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _tpr(fpr: float, members: Scores, others: Scores) -> float:
    passing = int(fpr * len(others))
    threshold = np.partition(others, len(others) - passing - 1)[len(others) - passing - 1]
    return float((members > threshold).mean())


def _resampled(patients: Sequence[Scores], rng: np.random.Generator) -> Scores:
    return np.concatenate([patients[number] for number in rng.integers(len(patients), size=len(patients))])
