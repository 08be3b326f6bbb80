"""Dice and HD95 lesion by lesion, as the BraTS 2023 segmentation challenge: a missed small lesion counts in full.

Source: the organisers' description and program (github.com/rachitsaluja/BraTS-2023-Metrics), of which this is an
implementation of our own. Where they decide what may be debated, this follows them: the penalty is 374 mm whatever the
scan's size, a lesion of exactly the least volume is passed over, and a spurious component counts however small it is.
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
    """How far one region of one case is found, lesion by lesion.

    Attributes
    ----------
    dice : float
        Mean over lesions and spurious components, in [0, 1]; 1 where there are none.
    found, missed : int
        Lesions of the truth, larger than the least volume, that a predicted component reaches, and that none does.
    spurious : int
        Predicted components that reach no lesion, not even one too small to count.
    """

    dice: float
    found: int
    missed: int
    spurious: int


@dataclass(frozen=True)
class LesionScores:
    """`LesionOverlap`, and distances.

    Attributes
    ----------
    dice : float
        Mean over lesions and spurious components, in [0, 1]; 1 where there are none.
    hd95 : float
        The same mean in mm; 0 where there are none.
    found, missed, spurious : int
        As `LesionOverlap` has them.
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
    """Return all of `lesion_scores` but distances, of its parameters: a small part of what they cost."""
    found = _matched(prediction, truth, growth)
    return LesionOverlap(1.0, 0, 0, 0) if found is None else found.overlap(spacing_mm, least_mm3)


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
    """Lesions of a truth, numbered from 1, and the predicted components that belong to each.

    Attributes
    ----------
    truth : ndarray of shape (X, Y, Z)
        Of the box that holds both masks.
    component_of : ndarray of shape (X, Y, Z)
        Number of each predicted voxel's component, from 1; 0 elsewhere.
    about : tuple of slice
        Where in that box the grown truth is.
    lesion_of : ndarray
        There, number of each voxel's grown lesion; 0 elsewhere.
    belongs : ndarray of shape (lesions + 1, components + 1)
    """

    truth: NDArray[np.bool_]
    component_of: NDArray[np.signedinteger]
    about: tuple[slice, slice, slice]
    lesion_of: NDArray[np.signedinteger]
    belongs: NDArray[np.bool_]

    @property
    def reached(self) -> NDArray[np.intp]:
        """Numbers of the lesions to which something belongs."""
        return np.flatnonzero(self.belongs.any(1))

    def counted(self, spacing_mm: Sequence[float], least_mm3: float) -> NDArray[np.bool_]:
        """Return by number whether a lesion is large enough to be scored."""
        return self._voxels(self.truth[self.about]) * np.prod(spacing_mm) > least_mm3

    def overlap(self, spacing_mm: Sequence[float], least_mm3: float) -> LesionOverlap:
        """Return the scores, from counts of voxels alone."""
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
        """Return all that belongs to a lesion, and the lesion."""
        own = np.zeros_like(self.truth)
        own[self.about] = self.truth[self.about] & (self.lesion_of == lesion)
        return self.belongs[lesion][self.component_of], own

    def _voxels(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Return by lesion how many voxels of a mask where the grown truth is are of it; of none for number 0."""
        count = np.bincount(self.lesion_of[mask], minlength=len(self.belongs))
        count[0] = 0
        return count


def _matched(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], growth: int) -> _Matched | None:
    """Find lesions and components; None where both masks are empty."""
    either = prediction | truth
    if not either.any():
        return None
    held = bounding_box(either)
    prediction, truth = prediction[held], truth[held]  # beyond this box nothing meets that does not meet in it
    about = (slice(0, 0),) * 3
    if truth.any():  # nor beyond this one is there any of the grown truth
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
