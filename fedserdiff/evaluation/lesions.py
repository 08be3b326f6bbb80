"""Dice and HD95 lesion by lesion, as the BraTS 2023 segmentation challenge: a missed small lesion counts in full.

Source: the organisers' description and program (github.com/rachitsaluja/BraTS-2023-Metrics), of which this is an
implementation of our own. Where they decide what may be debated, this follows them: the penalty is 374 mm whatever the
scan's size, a lesion of exactly the least volume is passed over, and a spurious component counts however small it is.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.utils import get_mask_edges
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.distances import distances
from fedserdiff.evaluation.segmentation import dice

PENALTY_MM = 374.0
"""HD95 of a missed lesion and of a spurious component: the organisers' number, a BraTS volume's diagonal rounded up."""

_BEST, _WORST = (1.0, 0.0), (0.0, PENALTY_MM)
_TOUCHING = ndimage.generate_binary_structure(3, 3)  # 26 neighbours: by face, edge or corner
_GROWTH = ndimage.generate_binary_structure(3, 2)  # 18 neighbours: by face or edge


@dataclass(frozen=True)
class LesionScores:
    """What one region of one case scored, lesion by lesion.

    Attributes
    ----------
    dice : float
        Mean over lesions and spurious components, in [0, 1]; 1 where there are none.
    hd95 : float
        The same mean in mm; 0 where there are none.
    found, missed : int
        Lesions of the truth, larger than the least volume, that a predicted component reaches, and that none does.
    spurious : int
        Predicted components that reach no lesion, not even one too small to count.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    spurious: int


def lesion_scores(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    growth: int = 3,
    least_mm3: float = 50.0,
) -> LesionScores:
    """Score a region of a case lesion by lesion, as the BraTS 2023 segmentation challenge.

    The truth is grown by `growth` voxels; what then touches, corners included, is one lesion, made of the truth's own
    voxels. A connected component of the prediction that reaches into a grown lesion belongs to it, and may belong to
    several. A lesion is scored against all that belongs to it. What belongs to none is spurious, and scores as a
    missed lesion does: Dice 0, HD95 `PENALTY_MM`. The scores are means over the lesions of more than `least_mm3` and
    the spurious components.

    Parameters
    ----------
    prediction, truth : ndarray of shape (X, Y, Z)
        Masks.
    spacing_mm : sequence of float
        Voxel size.
    growth : int
        Times that the truth is grown by each voxel's 18 neighbours. 3 is the challenge's for glioma (also in
        sub-Saharan Africa and in children), 1 its for meningioma and metastases.
    least_mm3 : float
        Lesions up to this volume are passed over: 50 is the challenge's, 2 its for metastases.
    """
    either = prediction | truth
    if not either.any():
        return LesionScores(*_BEST, 0, 0, 0)
    held = bounding_box(either)
    prediction, truth = prediction[held], truth[held]  # beyond this box nothing meets that does not meet in it
    lesion_of, lesions = ndimage.label(ndimage.binary_dilation(truth, _GROWTH, iterations=growth), _TOUCHING)
    component_of, components = ndimage.label(prediction, _TOUCHING)
    belongs = np.zeros((lesions + 1, components + 1), bool)
    belongs[lesion_of, component_of] = True
    belongs[:, 0] = False  # what is not predicted belongs to none

    scores: list[tuple[float, float]] = []
    found = 0
    for lesion in range(1, lesions + 1):
        own = truth & (lesion_of == lesion)
        if own.sum() * np.prod(spacing_mm) <= least_mm3:
            continue
        reached = bool(belongs[lesion].any())
        found += reached
        predicted = belongs[lesion][component_of]
        scores.append((dice(predicted, own), _surface_hd95(predicted, own, spacing_mm)) if reached else _WORST)
    spurious = int((~belongs[1:, 1:].any(0)).sum())
    missed = len(scores) - found
    scores += [_WORST] * spurious
    mean = np.mean(scores or [_BEST], axis=0)
    return LesionScores(float(mean[0]), float(mean[1]), found, missed, spurious)


def _surface_hd95(prediction: NDArray[np.bool_], lesion: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Return HD95 in mm of two masks as the organisers measure it: over surface area, not over surface voxels.

    The surface lies between voxels, cut to pieces of known area, and 95 % of the *area* are nearer than the distance
    (google-deepmind/surface-distance, whose tables MONAI has). The larger of the two directions counts.
    """
    masks = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in (prediction, lesion)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI deprecates an argument that it passes to itself
        found = get_mask_edges(*masks, spacing=[float(mm) for mm in spacing_mm])
    one, other, area_of_one, area_of_other = (array.numpy() for array in found)
    return max(
        _weighted_percentile(distances(one, other, spacing_mm), area_of_one[one].astype(np.float64)),
        _weighted_percentile(distances(other, one, spacing_mm), area_of_other[other].astype(np.float64)),
    )


def _weighted_percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the least distance within which 95 % of the area lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order[min(int(np.searchsorted(share, 0.95)), len(order) - 1)]])
