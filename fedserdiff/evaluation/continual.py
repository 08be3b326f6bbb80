"""Scores of a whole stream, from the matrix R: R[i, j] is the score on site j after stage i; row 0 is untrained.

BWT and FWT: Lopez-Paz and Ranzato, arXiv 1706.08840. Forgetting: Chaudhry et al., arXiv 1801.10112 (the best score
ever held, not the first). The forgetting rate is our reading of SER-Diff's FR. Sites are numbered 1 … S as stages are.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ContinualScores:
    """Scores of a stream in the units of R; None where a stream is too short to have them.

    Where R was not measured everywhere, each score is the mean over those sites j for which all was measured that it
    needs at all hazards: R[S, j] and R[j, j], or, for FWT, R[j − 1, j] and R[0, j]. It is None where there is no such
    site.

    Attributes
    ----------
    bwt : float or None
        mean over j < S of R[S, j] − R[j, j]: negative where later sites did harm.
    fwt : float or None
        mean over j > 1 of R[j − 1, j] − R[0, j]: what a site gains before it arrives.
    forgetting : float or None
        mean over j < S of max_{i<S} R[i, j] − R[S, j]: positive where something was lost. The maximum is over the
        stages i that were measured, R[j, j] among them: with fewer of them it can only be smaller.
    forgetting_rate : float or None
        mean over j < S of site j's forgetting relative to R[j, j]. Where R[j, j] is 0: 0 if nothing was lost, else 1.
    """

    bwt: float | None
    fwt: float | None
    forgetting: float | None
    forgetting_rate: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the scores by name."""
        return asdict(self)


def continual_scores(r: ArrayLike, higher_is_better: bool = True) -> ContinualScores:
    """Compute the scores of a stream from R.

    Parameters
    ----------
    r : array_like of shape (S + 1, S)
        Rows are stages from the untrained row 0; NaN where nothing was measured. Any other shape (pooling has one
        stage for all sites) has no order of arrival, hence no scores.
    higher_is_better : bool
        False for distances such as HD95: the sign flips, so that negative BWT and positive forgetting stay bad.
    """
    matrix = np.asarray(r, float)
    sites = matrix.shape[1]
    if matrix.shape[0] != sites + 1 or sites < 2:
        return ContinualScores(None, None, None, None)
    scores = stacked_scores(matrix, higher_is_better)
    return ContinualScores(**{name: None if np.isnan(value) else float(value) for name, value in scores.items()})


def stacked_scores(r: NDArray[np.float64], higher_is_better: bool) -> dict[str, NDArray[np.float64]]:
    """Return every score of `ContinualScores` of a stack of R's (…, S + 1, S) with S ≥ 2: arrays of shape (…).

    NaN in R is what was not measured; a score is NaN where it is None there.
    """
    signed = r if higher_is_better else -r
    learnt = np.diagonal(signed[..., 1:, :], axis1=-2, axis2=-1)
    last = signed[..., -1, :]
    best = np.fmax.reduce(signed[..., :-1, :], axis=-2)  # of what was measured
    lost = np.where(np.isnan(learnt), np.nan, best - last)[..., :-1]
    at_arrival = np.abs(learnt)[..., :-1]
    rates = np.where(at_arrival > 0, lost / np.where(at_arrival > 0, at_arrival, 1), np.sign(lost).clip(0))
    before = np.diagonal(signed, axis1=-2, axis2=-1)[..., 1:]  # R[j − 1, j] of every site j but the first
    return {
        "bwt": _mean_of_known((last - learnt)[..., :-1]),
        "fwt": _mean_of_known(before - signed[..., 0, 1:]),
        "forgetting": _mean_of_known(lost),
        "forgetting_rate": _mean_of_known(rates),
    }


def _mean_of_known(by_site: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(by_site)
    count = known.sum(-1)
    total = np.where(known, by_site, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
