"""HD95 over surface area, as in the BraTS 2023 challenge, instead of over surface voxels."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.utils import get_mask_edges
from numpy.typing import NDArray

from fedserdiff.evaluation.distances import distances

PENALTY_MM = 374.0
"""HD95 of a missed lesion or a spurious component: the organisers' value, a BraTS volume's diagonal rounded up."""


def area_hd95(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Return HD95 in mm of two masks (X, Y, Z) as the BraTS 2023 organisers measure it.

    The surface lies between voxels and is divided into pieces of known area; 95 % of the *area* is nearer than the
    returned distance (google-deepmind/surface-distance, whose tables MONAI has). The larger of the two directions
    counts. The result is 0 if both masks are empty and `PENALTY_MM` if one is, for every scan size.
    """
    if not prediction.any() or not truth.any():
        return PENALTY_MM if prediction.any() or truth.any() else 0.0
    masks = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI deprecates an argument that it passes to itself
        found = get_mask_edges(*masks, spacing=[float(mm) for mm in spacing_mm])
    one, other, area_of_one, area_of_other = (array.numpy() for array in found)
    return max(
        _weighted_percentile(distances(one, other, spacing_mm), area_of_one[one].astype(np.float64)),
        _weighted_percentile(distances(other, one, spacing_mm), area_of_other[other].astype(np.float64)),
    )


def _weighted_percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the smallest distance within which 95 % of the area lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[min(int(np.searchsorted(share, 0.95)), len(order) - 1)]])
