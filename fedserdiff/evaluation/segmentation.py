"""Scores of one volume. They are never NaN and no case is dropped: empty masks have defined scores."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.distances import distances, farthest_at_most, grown, surface

_SHARE = np.float32(0.95)  # MONAI interpolates a percentile in float32; float64 gives a different distance
_ROUNDING = 1e-6  # in mm, so that voxels exactly at the limit count


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the Dice score in [0, 1] of two masks of the same shape; 1 if both are empty, 0 if one is."""
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 1.0 if total == 0 else 2.0 * np.count_nonzero(prediction & truth) / total


def hd95(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], diagonal_mm: float
) -> float:
    """Return the 95th percentile Hausdorff distance in mm between the surfaces of two masks (X, Y, Z).

    It is the larger of the two directed percentiles over surface voxels, as in BraTS (BraTS 2023 weights them by area:
    see `lesions`). The value equals that of MONAI's `compute_hausdorff_distance` in float32. It is 0 if both masks are
    empty. If one is empty, it is `diagonal_mm`, the worst possible distance in the scan, because a missed tumour must
    not improve a mean.
    """
    if not prediction.any() and not truth.any():
        return 0.0
    if not prediction.any() or not truth.any():
        return diagonal_mm
    held = bounding_box(prediction | truth)
    one, other = surface(prediction[held]), surface(truth[held])
    far = _percentile(distances(one, other, spacing_mm))
    if farthest_at_most(other, one, spacing_mm) <= far:  # for example if the prediction covers the truth
        return far
    return max(far, _percentile(distances(other, one, spacing_mm)))


def _percentile(away_mm: NDArray[np.float64]) -> float:
    return float(np.quantile(away_mm.astype(np.float32), _SHARE))


def nsd(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], spacing_mm: Sequence[float], within_mm: float = 1.0
) -> float:
    """Return the normalised surface Dice of two masks (X, Y, Z): the share of both surfaces that is near the other.

    It is the share, in [0, 1], of surface voxels at most `within_mm` from a surface voxel of the other mask, from
    centre to centre (Nikolov et al., arXiv 1809.04430). Voxels are counted as in MONAI's `compute_surface_dice` without
    sub-voxels. It is 1 if both masks are empty, 0 if one is.
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
