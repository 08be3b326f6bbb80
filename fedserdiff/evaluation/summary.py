"""Means of named scores."""

from collections.abc import Mapping

import numpy as np

from fedserdiff.data.releases import REGIONS


def mean_over_regions(scores: Mapping[str, float], mask: str, metric: str) -> float:
    """Return the mean over TC, WT and ET of ``{mask}.{metric}.{region}``."""
    return float(np.mean([scores[f"{mask}.{metric}.{region}"] for region in REGIONS]))
