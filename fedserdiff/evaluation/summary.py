"""Means of scores by name."""

from collections.abc import Mapping

import numpy as np


def mean_over_regions(scores: Mapping[str, float], mask: str, metric: str) -> float:
    """Return the mean over all regions of ``{mask}.{metric}.{region}``."""
    return float(np.mean([value for name, value in scores.items() if name.startswith(f"{mask}.{metric}.")]))
