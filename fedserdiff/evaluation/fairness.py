"""Who lost: the worst hospital, and how far hospitals lie apart.

A mean over hospitals hides the one that lost. Li et al. (Fair Resource Allocation in Federated Learning, arXiv
1905.10497) report the worst clients and the variance over clients; of few hospitals the single worst one is named, and
the standard deviation is in the score's own units (our choice).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Fairness:
    """How a score differs between hospitals, in its units; None where no hospital has been scored.

    Attributes
    ----------
    worst_site : str or None
        Which hospital has the lowest score; of equal ones the first to arrive.
    worst : float or None
        That score.
    spread : float or None
        Standard deviation over hospitals, by the population formula (divided by their number): they are all there are.
        0 of a single one.
    """

    worst_site: str | None
    worst: float | None
    spread: float | None

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the values by name."""
        return asdict(self)


def fairness(by_site: Mapping[str, float]) -> Fairness:
    """Return how a score that is better the higher it is differs between hospitals.

    Parameters
    ----------
    by_site : mapping of str to float
        Each hospital's score, in order of arrival; NaN where it was not measured, and left out then.
    """
    known = {site: value for site, value in by_site.items() if not math.isnan(value)}
    if not known:
        return Fairness(None, None, None)
    worst = min(known, key=known.__getitem__)
    return Fairness(worst, known[worst], float(np.std(list(known.values()))))
