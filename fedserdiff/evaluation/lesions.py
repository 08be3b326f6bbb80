"""Lesion-wise Dice and HD95 as in the BraTS 2023 segmentation challenge: a missed small lesion counts in full.

Source: the organisers' description and program (github.com/rachitsaluja/BraTS-2023-Metrics); this is an independent
implementation. It also follows their debatable choices: the penalty is 374 mm for every scan size, a lesion of exactly
the smallest volume is ignored, and a spurious component counts however small it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.areas import PENALTY_MM, area_hd95
from fedserdiff.evaluation.distances import grown

_TOUCHING = ndimage.generate_binary_structure(3, 3)  # 26 neighbours: by face, edge or corner
_GROWTH = np.argwhere(ndimage.generate_binary_structure(3, 2)) - 1  # itself and 18 neighbours: by face or edge


@dataclass(frozen=True)
class LesionOverlap:
    """Lesion-wise detection and overlap of one region in one case.

    Attributes
    ----------
    dice : float
        Mean over lesions and spurious components, in [0, 1]; 1 if there are none.
    found, missed : int
        Number of true lesions above the smallest volume that a predicted component reaches, and that none reaches.
    spurious : int
        Number of predicted components that reach no lesion, not even one too small to count.
    """

    dice: float
    found: int
    missed: int
    spurious: int


@dataclass(frozen=True)
class LesionScores:
    """`LesionOverlap` with distances.

    Attributes
    ----------
    dice : float
        Mean over lesions and spurious components, in [0, 1]; 1 if there are none.
    hd95 : float
        The same mean in mm; 0 if there are none.
    found, missed, spurious : int
        As in `LesionOverlap`.
    """

    dice: float
    hd95: float
    found: int
    missed: int
    spurious: int


def lesion_overlap(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    growth: int = 3,
    least_mm3: float = 50.0,
) -> LesionOverlap:
    """Return `lesion_scores` without distances, for the same parameters, at a small part of the cost."""
    found = _matched(prediction, truth, growth)
    return LesionOverlap(1.0, 0, 0, 0) if found is None else found.overlap(spacing_mm, least_mm3)


def lesion_scores(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    growth: int = 3,
    least_mm3: float = 50.0,
) -> LesionScores:
    """Score a region of a case lesion by lesion, as in the BraTS 2023 segmentation challenge.

    The truth is dilated by `growth` voxels. Parts that then touch, corners included, form one lesion, which consists of
    the undilated voxels. A connected component of the prediction that reaches into a dilated lesion belongs to it, and
    may belong to several. Each lesion is scored against everything that belongs to it. A component that belongs to no
    lesion is spurious and scores like a missed lesion: Dice 0, HD95 `PENALTY_MM`. The scores are means over the lesions
    of more than `least_mm3` and the spurious components.

    Parameters
    ----------
    prediction, truth : ndarray of shape (X, Y, Z)
        Masks.
    spacing_mm : sequence of float
        Voxel size in mm.
    growth : int
        Number of dilations of the truth by each voxel's 18 neighbours. The challenge uses 3 for glioma (also in
        sub-Saharan Africa and in children) and 1 for meningioma and metastases.
    least_mm3 : float
        Lesions up to this volume in mm³ are ignored. The challenge uses 50, and 2 for metastases.
    """
    found = _matched(prediction, truth, growth)
    if found is None:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    overlap = found.overlap(spacing_mm, least_mm3)
    away = [PENALTY_MM] * (overlap.missed + overlap.spurious)
    for lesion in found.reached[found.counted(spacing_mm, least_mm3)[found.reached]]:
        away.append(area_hd95(*found.masks_of(lesion), spacing_mm))
    mean = float(np.mean(away)) if away else 0.0
    return LesionScores(overlap.dice, mean, overlap.found, overlap.missed, overlap.spurious)


@dataclass(frozen=True)
class _Matched:
    """True lesions, numbered from 1, and the predicted components that belong to each.

    Attributes
    ----------
    truth : ndarray of shape (X, Y, Z)
        The true mask within the bounding box of both masks.
    component_of : ndarray of shape (X, Y, Z)
        Component number of each predicted voxel, from 1; 0 elsewhere.
    about : tuple of slice
        Position of the dilated truth in that box.
    lesion_of : ndarray
        Lesion number of each voxel within `about`; 0 outside dilated lesions.
    belongs : ndarray of shape (lesions + 1, components + 1)
        Whether a component belongs to a lesion.
    """

    truth: NDArray[np.bool_]
    component_of: NDArray[np.signedinteger]
    about: tuple[slice, slice, slice]
    lesion_of: NDArray[np.signedinteger]
    belongs: NDArray[np.bool_]

    @property
    def reached(self) -> NDArray[np.intp]:
        """Numbers of the lesions to which a component belongs."""
        return np.flatnonzero(self.belongs.any(1))

    def counted(self, spacing_mm: Sequence[float], least_mm3: float) -> NDArray[np.bool_]:
        """Return, by number, whether a lesion is large enough to be scored."""
        return self._voxels(self.truth[self.about]) * np.prod(spacing_mm) > least_mm3

    def overlap(self, spacing_mm: Sequence[float], least_mm3: float) -> LesionOverlap:
        """Return the scores from voxel counts."""
        own, counted = self._voxels(self.truth[self.about]), self.counted(spacing_mm, least_mm3)
        common = self._voxels(self.truth[self.about] & (self.component_of[self.about] > 0))
        predicted = self.belongs @ np.bincount(self.component_of.ravel(), minlength=self.belongs.shape[1])
        spurious = int((~self.belongs[1:, 1:].any(0)).sum())
        found = int((counted & self.belongs.any(1)).sum())
        missed = int(counted.sum()) - found
        total = float((2.0 * common[counted] / (own[counted] + predicted[counted])).sum())
        scored = found + missed + spurious
        return LesionOverlap(total / scored if scored else 1.0, found, missed, spurious)

    def masks_of(self, lesion: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return the mask of all components that belong to a lesion, and the lesion's mask."""
        own = np.zeros_like(self.truth)
        own[self.about] = self.truth[self.about] & (self.lesion_of == lesion)
        return self.belongs[lesion][self.component_of], own

    def _voxels(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return the number of a mask's voxels in each dilated lesion, by lesion number; 0 for number 0."""
        count = np.bincount(self.lesion_of[mask], minlength=len(self.belongs))
        count[0] = 0
        return count


def _matched(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], growth: int) -> _Matched | None:
    """Find lesions and components; return None if both masks are empty."""
    either = prediction | truth
    if not either.any():
        return None
    held = bounding_box(either)
    prediction, truth = prediction[held], truth[held]  # nothing outside this box can touch
    about = (slice(0, 0),) * 3
    if truth.any():  # the dilated truth lies within this box
        box = zip(bounding_box(truth), truth.shape, strict=True)
        x, y, z = (slice(max(0, of.start - growth), min(size, of.stop + growth)) for of, size in box)
        about = (x, y, z)
    reach = truth[about]
    for _ in range(growth):
        reach = grown(reach, _GROWTH)
    lesion_of, lesions = ndimage.label(reach, _TOUCHING)
    component_of, components = ndimage.label(prediction, _TOUCHING)
    belongs = np.zeros((lesions + 1, components + 1), bool)
    both = reach & prediction[about]
    belongs[lesion_of[both], component_of[about][both]] = True
    return _Matched(truth, component_of, about, lesion_of, belongs)
