"""Scores of one volume. Never NaN, never dropped: empty masks have scores of their own."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.distances import distances, farthest_at_most, grown, surface

_SHARE = np.float32(0.95)  # MONAI interpolates a percentile in float32: in float64 another distance comes out
_ROUNDING = 1e-6  # of mm, so that voxels just within reach are


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the Dice score in [0, 1] of two masks of one shape; 1 where both are empty, 0 where one is."""
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 1.0 if total == 0 else 2.0 * np.count_nonzero(prediction & truth) / total


def hd95(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], diagonal_mm: float
) -> float:
    """Return the 95th percentile Hausdorff distance in mm between the surfaces of two masks (X, Y, Z).

    The larger of the two directed percentiles, as BraTS scores it, over surface voxels (BraTS 2023 weighs them by area:
    see `lesions`): the value of MONAI's `compute_hausdorff_distance`, to its float32. 0 where both masks are empty;
    `diagonal_mm`, the worst possible distance in the scan, where one is: a missed tumour must not improve a mean.
    """
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return diagonal_mm
    held = bounding_box(prediction | truth)
    one, other = surface(prediction[held]), surface(truth[held])
    far = _percentile(distances(one, other, spacing_mm))
    if farthest_at_most(other, one, spacing_mm) <= far:  # as where the prediction is all over the truth
        return far
    return max(far, _percentile(distances(other, one, spacing_mm)))


def _percentile(away_mm: NDArray[np.float64]) -> float:
    return float(np.quantile(away_mm.astype(np.float32), _SHARE))


def nsd(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], within_mm: float = 1.0
) -> float:
    """Return the normalised surface Dice of two masks (X, Y, Z): the share of either surface that is near the other.

    In [0, 1], of surface voxels no more than `within_mm` from a surface voxel of the other mask, from centre to centre
    (Nikolov et al., arXiv 1809.04430, counted as MONAI's `compute_surface_dice` counts unless asked for sub-voxels). 1
    where both masks are empty, 0 where one is.
    """
    if not prediction.any() or not truth.any():
        return float(prediction.any() == truth.any())
    held = bounding_box(prediction | truth)
    one, other = surface(prediction[held]), surface(truth[held])
    most = [int(within_mm / mm + _ROUNDING) for mm in spacing_mm]
    around = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), -1).reshape(-1, 3)
    near = around[np.linalg.norm(around * np.asarray(spacing_mm), axis=1) <= within_mm + _ROUNDING]
    found = np.count_nonzero(one & grown(other, near)) + np.count_nonzero(other & grown(one, near))
    return found / (np.count_nonzero(one) + np.count_nonzero(other))


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the length in mm of a volume's diagonal (373.13 for BraTS's 240×240×155 at 1 mm)."""
    return math.hypot(*(n * mm for n, mm in zip(shape, spacing_mm, strict=True)))
