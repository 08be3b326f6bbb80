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

    Attributes
    ----------
    bwt : float or None
        mean over j < S of R[S, j] − R[j, j]: negative where later sites did harm.
    fwt : float or None
        mean over j > 1 of R[j − 1, j] − R[0, j]: what a site gains before it arrives.
    forgetting : float or None
        mean over j < S of max_{i<S} R[i, j] − R[S, j]: positive where something was lost.
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
        Rows are stages from the untrained row 0. Any other shape (pooling has one stage for all sites) has no
        order of arrival, hence no scores.
    higher_is_better : bool
        False for distances such as HD95: the sign flips, so that negative BWT and positive forgetting stay bad.
    """
    matrix = np.asarray(r, float)
    sites = matrix.shape[1]
    if matrix.shape[0] != sites + 1 or sites < 2:
        return ContinualScores(None, None, None, None)
    return ContinualScores(**{k: float(v) for k, v in stacked_scores(matrix, higher_is_better).items()})


def stacked_scores(r: NDArray[np.float64], higher_is_better: bool) -> dict[str, NDArray[np.float64]]:
    """Return every score of `ContinualScores` of a stack of R's (…, S + 1, S) with S ≥ 2: arrays of shape (…)."""
    signed = r if higher_is_better else -r
    learnt = np.diagonal(signed[..., 1:, :], axis1=-2, axis2=-1)
    last = signed[..., -1, :]
    lost = (signed[..., :-1, :].max(-2) - last)[..., :-1]
    at_arrival = np.abs(learnt)[..., :-1]
    rates = np.where(at_arrival > 0, lost / np.where(at_arrival > 0, at_arrival, 1), lost > 0)
    before = np.diagonal(signed, axis1=-2, axis2=-1)[..., 1:]  # R[j − 1, j] of every site j but the first
    return {
        "bwt": (last - learnt)[..., :-1].mean(-1),
        "fwt": (before - signed[..., 0, 1:]).mean(-1),
        "forgetting": lost.mean(-1),
        "forgetting_rate": rates.mean(-1),
    }
