"""Scores of a whole stream, from the matrix R: R[i, j] is the score on site j after stage i; row 0 is untrained.

BWT and FWT: Lopez-Paz and Ranzato, arXiv 1706.08840. Forgetting: Chaudhry et al., arXiv 1801.10112 (the best score
ever held, not the first). The forgetting rate is our reading of SER-Diff's FR. Stages are numbered 1 … K. a(j) is the
stage in which site j arrives: j itself if sites arrive one a stage.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class ContinualScores:
    """Scores of a stream in the units of R; None if no site gives one.

    Each score is a mean over the sites j that it is defined for and of which R holds what it needs: R[K, j] and
    R[a(j), j], or for FWT R[a(j) − 1, j] and R[0, j]. R lacks these for a site that has left, and if it was measured in
    part.

    Attributes
    ----------
    bwt : float or None
        mean over a(j) < K of R[K, j] − R[a(j), j]: negative if later stages did harm.
    fwt : float or None
        mean over a(j) > 1 of R[a(j) − 1, j] − R[0, j]: what a site gains before it arrives.
    forgetting : float or None
        mean over a(j) < K of max_{i<K} R[i, j] − R[K, j]: positive if something was lost. The maximum is over the
        stages i that were measured, R[a(j), j] among them: with fewer of them it can only be smaller.
    forgetting_rate : float or None
        mean over a(j) < K of site j's forgetting relative to R[a(j), j]. If R[a(j), j] is 0: 0 if nothing was lost,
        else 1.
    """

    bwt: float | None
    fwt: float | None
    forgetting: float | None
    forgetting_rate: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the scores by name."""
        return asdict(self)


def continual_scores(
    r: ArrayLike, higher_is_better: bool = True, arrivals: Sequence[int] | None = None
) -> ContinualScores:
    """Compute the scores of a stream from R.

    Parameters
    ----------
    r : array_like of shape (K + 1, S)
        Rows are stages from the untrained row 0; NaN where nothing was measured.
    higher_is_better : bool
        False for distances such as HD95: the sign flips, so that negative BWT and positive forgetting stay bad.
    arrivals : sequence of int, optional
        a(j) of each site, from 1 to K. If None, one site arrives a stage, and an R of another shape has no scores.
    """
    matrix = np.asarray(r, float)
    stages, sites = matrix.shape[0] - 1, matrix.shape[1]
    if arrivals is None and stages != sites:
        return ContinualScores(None, None, None, None)
    scores = stacked_scores(matrix, higher_is_better, arrivals)
    return ContinualScores(**{name: None if np.isnan(value) else float(value) for name, value in scores.items()})


def stacked_scores(
    r: NDArray[np.float64], higher_is_better: bool, arrivals: Sequence[int] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Return every score of `ContinualScores` of a stack of R's (…, K + 1, S): arrays of shape (…).

    NaN in R is what was not measured; a score is NaN where it is None there. `arrivals` is as in `continual_scores`.
    """
    signed = r if higher_is_better else -r
    stages, sites = r.shape[-2] - 1, r.shape[-1]
    arrived = np.arange(1, sites + 1) if arrivals is None else np.asarray(arrivals)
    columns = np.arange(sites)
    past, later = arrived < stages, arrived > 1
    learnt = signed[..., arrived, columns][..., past]
    last = signed[..., -1, past]
    best = np.fmax.reduce(signed[..., :-1, past], axis=-2)  # of what was measured
    lost = np.where(np.isnan(learnt), np.nan, best - last)
    at_arrival = np.abs(learnt)
    rates = np.where(at_arrival > 0, lost / np.where(at_arrival > 0, at_arrival, 1), np.sign(lost).clip(0))
    before = signed[..., arrived - 1, columns][..., later]
    return {
        "bwt": _mean_of_known(last - learnt),
        "fwt": _mean_of_known(before - signed[..., 0, later]),
        "forgetting": _mean_of_known(lost),
        "forgetting_rate": _mean_of_known(rates),
    }


def _mean_of_known(by_site: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without NaN, or NaN if all values are."""
    known = ~np.isnan(by_site)
    count = known.sum(-1)
    total = np.where(known, by_site, 0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
