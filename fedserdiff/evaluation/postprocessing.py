"""Post-processing: removal of small components, and the ET rule, with thresholds given or chosen on validation
patients.

BraTS winners empty ET if it is smaller than some volume, so that it counts as tumour core: a false positive region
scores Dice 0, and a correctly absent one scores 1 (Isensee et al., arXiv 2011.00848).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.releases import Convention
from fedserdiff.evaluation.segmentation import dice
from fedserdiff.settings.scoring import Scoring

ET = "et"
"""The region of the ET rule."""

CANDIDATES_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Candidates for each threshold; 0 means no threshold (our choice)."""

_TOUCHING = ndimage.generate_binary_structure(3, 3)  # 26 neighbours: by face, edge or corner

Gains = NDArray[np.float64]
"""Mean Dice over a case's regions, by threshold (one for each region, then that of ET) and by candidate."""


@dataclass(frozen=True)
class Thresholds:
    """Smallest volumes that stay in a mask.

    Attributes
    ----------
    least_ml : tuple of float
        Volume of a connected component in mL, by region.
    least_et_ml : float
        Volume of all ET in mL; if there is less, all of it becomes tumour core.
    """

    least_ml: tuple[float, ...]
    least_et_ml: float

    def apply(self, masks: NDArray[np.bool_], convention: Convention, voxel_ml: float) -> NDArray[np.bool_]:
        """Return a label map's region masks without parts that are too small.

        The ET rule comes first. Components are those of the masks as given. What is removed from a region is also
        removed from all regions inside it, such as ET inside the tumour core.

        Parameters
        ----------
        masks : ndarray of shape (regions, X, Y, Z)
            In the convention's order.
        convention : Convention voxel_ml : float
            Volume of a voxel in mL.
        """
        kept = masks.copy()
        if ET in convention.regions:
            et = list(convention.regions).index(ET)
            if np.count_nonzero(masks[et]) * voxel_ml < self.least_et_ml:
                kept[et] = False
        for region, least in enumerate(self.least_ml):
            if least > 0:
                component_of, volumes = _components(masks[region], voxel_ml)
                small = (volumes < least)[component_of]
                for inner in (region, *_within(convention)[region]):
                    kept[inner] &= ~small
        return convention.written(kept.astype(np.float32))


def given_thresholds(scoring: Scoring) -> Thresholds | None:
    """Return the thresholds from the settings, or None if they set none."""
    if not any(scoring.least_ml) and not scoring.least_et_ml:
        return None
    return Thresholds(scoring.least_ml, scoring.least_et_ml)


def gains(masks: NDArray[np.bool_], truth: NDArray[np.bool_], convention: Convention, voxel_ml: float) -> Gains:
    """Return a case's mean Dice over regions for each single threshold: (regions + 1, candidates).

    Regions must be nested or disjoint, as those of BraTS are. Voxels are counted by component; no masks are built.

    Parameters
    ----------
    masks, truth : ndarray of shape (regions, X, Y, Z)
        Masks of a label map, in the convention's order.
    convention : Convention
    voxel_ml : float
    """
    candidates = np.array(CANDIDATES_ML)
    as_is = [dice(mask, true) for mask, true in zip(masks, truth, strict=True)]
    found = np.tile(np.array(as_is)[:, None, None], (1, len(masks) + 1, len(candidates)))  # Dice of each region
    for region, within in enumerate(_within(convention)):
        component_of, volumes = _components(masks[region], voxel_ml)
        stays = volumes >= candidates[:, None]
        for inner in (region, *within):
            count = np.bincount(component_of[masks[inner]], minlength=len(volumes))
            common = np.bincount(component_of[masks[inner] & truth[inner]], minlength=len(volumes))
            total = stays @ count + np.count_nonzero(truth[inner])
            found[inner, region] = np.where(total > 0, 2.0 * (stays @ common) / np.maximum(total, 1), 1.0)
    if ET in convention.regions:
        et = list(convention.regions).index(ET)
        emptied = np.count_nonzero(masks[et]) * voxel_ml < candidates
        found[et, -1] = np.where(emptied, float(not truth[et].any()), as_is[et])
    mean: Gains = found.mean(0)
    return mean


def choose(of_cases: Sequence[Gains]) -> Thresholds:
    """Return, for each threshold, the candidate with the best mean Dice over cases; the smallest if several are equal.

    Each threshold is chosen with the others off (our choice: a joint choice would be among 9⁴ on a handful of
    patients).
    """
    best = np.mean(of_cases, axis=0).argmax(1)
    *least_ml, least_et_ml = (CANDIDATES_ML[place] for place in best)
    return Thresholds(tuple(least_ml), least_et_ml)


def to_dict(thresholds: Thresholds, convention: Convention) -> Mapping[str, object]:
    """Return thresholds by region, JSON-ready."""
    return {
        "least_ml": dict(zip(convention.regions, thresholds.least_ml, strict=True)),
        "least_et_ml": thresholds.least_et_ml,
    }


def _components(mask: NDArray[np.bool_], voxel_ml: float) -> tuple[NDArray[np.signedinteger], NDArray[np.floating]]:
    """Return each voxel's component number, 0 outside, and volumes in mL by number; number 0 has an infinite volume."""
    component_of, count = ndimage.label(mask, _TOUCHING)
    volumes = np.bincount(component_of.ravel(), minlength=count + 1) * voxel_ml
    volumes[0] = np.inf
    return component_of, volumes


def _within(convention: Convention) -> list[list[int]]:
    """Return, by region, the numbers of the regions strictly inside it: those with a proper subset of its labels."""
    labels = [set(values) for values in convention.regions.values()]
    return [[number for number, one in enumerate(labels) if one < outer] for outer in labels]
