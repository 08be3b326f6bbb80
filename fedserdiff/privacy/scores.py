"""How well an attack tells members from others: AUC, TPR at a low FPR, and their intervals over patients."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from fedserdiff.evaluation.bootstrap import Interval

Scores = NDArray[np.float64]
"""An attack's score of each item of one patient; the higher, the more the attack takes it for a member."""

Statistic = Callable[[Scores, Scores], float]


def auc(members: Scores, others: Scores) -> float:
    """Return the probability in [0, 1] that a member scores above another, ties counting half; 0.5 is guessing."""
    statistic = mannwhitneyu(members, others).statistic
    return float(statistic) / (len(members) * len(others))


def tpr_at(fpr: float) -> Statistic:
    """Return the statistic TPR, in [0, 1]: the share of members above a threshold that a share `fpr` of others passes.

    A threshold that fewer than 1 / `fpr` others decide is none: check with `estimable`.
    """

    def tpr(members: Scores, others: Scores) -> float:
        passing = int(fpr * len(others))
        threshold = np.sort(others)[len(others) - passing - 1]  # at most `passing` of the others are above it
        return float((members > threshold).mean())

    return tpr


def estimable(fpr: float, others: int) -> bool:
    """Say whether so many others can tell of a TPR at this FPR: at least one of them may be wrong."""
    return fpr * others >= 1


def over_patients(
    statistic: Statistic,
    members: Sequence[Scores],
    others: Sequence[Scores],
    rng: np.random.Generator,
    replicates: int = 1000,
) -> Interval:
    """Return a statistic with its 95 % interval by bootstrap over patients: a patient brings all its items.

    Few patients understate themselves, as n of them show (n − 1)/n of their variance; one shows none, and has no
    interval.

    Parameters
    ----------
    statistic : callable
        Of the members' scores and the others'.
    members, others : sequence of array of float64
        By patient; at least one patient each, with at least one item.
    rng : numpy Generator
        For the draws.
    replicates : int
        How many.
    """
    value = statistic(np.concatenate(members), np.concatenate(others))
    if min(len(members), len(others)) < 2:
        return Interval(value, None, None)
    drawn = [statistic(_resampled(members, rng), _resampled(others, rng)) for _ in range(replicates)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def _resampled(patients: Sequence[Scores], rng: np.random.Generator) -> Scores:
    return np.concatenate([patients[number] for number in rng.integers(len(patients), size=len(patients))])
