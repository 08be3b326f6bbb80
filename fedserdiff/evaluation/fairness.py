"""Fairness over hospitals: the worst hospital, and the spread of a score.

A mean over hospitals hides the one that lost. Li et al. (Fair Resource Allocation in Federated Learning, arXiv
1905.10497) report the worst clients and the variance over clients. With few hospitals, this package names the single
worst one, and reports the standard deviation, which is in the score's units (our choice).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Fairness:
    """Differences of a score between hospitals, in its units; None if no hospital has been scored.

    Attributes
    ----------
    worst_site : str or None
        Hospital with the lowest score; if several are equal, the first to arrive.
    worst : float or None
        Its score.
    spread : float or None
        Standard deviation over hospitals by the population formula (divided by their number), because they are all
        hospitals there are. 0 for a single hospital.
    """

    worst_site: str | None
    worst: float | None
    spread: float | None

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the values by name."""
        return asdict(self)


def fairness(by_site: Mapping[str, float]) -> Fairness:
    """Return the fairness of a higher-is-better score over hospitals.

    Parameters
    ----------
    by_site : mapping of str to float
        Each hospital's score in order of arrival. NaN means not measured; these hospitals are left out.
    """
    known = {site: value for site, value in by_site.items() if not math.isnan(value)}
    if not known:
        return Fairness(None, None, None)
    worst = min(known, key=known.__getitem__)
    return Fairness(worst, known[worst], float(np.std(list(known.values()))))
