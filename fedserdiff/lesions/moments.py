"""Moments of a hospital's lesions over its patients: some 100 numbers that describe their appearance."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.cache import CachedCase

SHARES_ROUNDED_TO = 0.05
"""Shares of patients are rounded to multiples of this, because exact shares would reveal the number of patients."""

_FURTHEST = 30.0
MOMENTS_WITHIN = {
    "means": (-_FURTHEST, _FURTHEST),
    "between": (-_FURTHEST, _FURTHEST),
    "within": (-_FURTHEST, _FURTHEST),
    "extent": (-_FURTHEST, _FURTHEST),
    "inside": (0.0, 1.0),
    "size": (-_FURTHEST, _FURTHEST),
    "patients": (0.0, 1_000_000.0),
}
"""Range of each of a hospital's moments; values beyond it are clipped (our choice)."""

PRIOR_VOXELS = 64
"""Number of extra voxels with mean 0 and deviation 1, as in z-scored brains, that are counted as healthy tissue."""

LEAST_DEVIATION = 0.1
"""Smallest standard deviation of healthy tissue."""

_ROUNDED_TO = 5  # patients
_MOST_CASES = 100  # cases whose voxels are read (our choice)
_LEAST_VOXELS = 20  # of a class in a case
_CONTAINED = 0.99  # least share of a region inside another one that counts as containing it

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LesionMoments:
    """Moments of a hospital's lesions over its patients, float32. R regions, M modalities.

    The class of a region is the part of it outside all smaller regions inside it. For TC, WT and ET, these are the
    necrotic or non-enhancing core, the oedema and the enhancing tumour. Intensities are relative to the patient's own
    healthy tissue, in its standard deviations above its mean.

    Attributes
    ----------
    means : ndarray of shape (R, M)
        Mean intensity of each class, averaged over patients.
    between : ndarray of shape (R, M, M)
        Covariance of these means between patients.
    within : ndarray of shape (R, M, M)
        Covariance within a patient, averaged over patients.
    extent : ndarray of shape (R, 4)
        For each class: the share of patients that have it; among those, the mean and standard deviation of the
        logarithm of its share of the lesion; and its depth in the lesion, from 0 at the rim to 1 at the centre.
    inside : ndarray of shape (R, R)
        1 if the row's region lies inside the column's, else 0.
    size : ndarray of shape (2,)
        Mean and standard deviation of the logarithm of the radius in mm of a ball with the lesion's volume.
    patients : ndarray of shape (1,)
        Number of patients, rounded to a multiple of 5.
    """

    means: Floats
    between: Floats
    within: Floats
    extent: Floats
    inside: Floats
    size: Floats
    patients: Floats

    @staticmethod
    def names() -> tuple[str, ...]:
        """Return the names of the moments, in order."""
        return tuple(field.name for field in fields(LesionMoments))

    @staticmethod
    def shapes(regions: int, modalities: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each moment."""
        square = (regions, modalities, modalities)
        return {
            "means": (regions, modalities), "between": square, "within": square, "extent": (regions, 4),
            "inside": (regions, regions), "size": (2,), "patients": (1,),
        }  # fmt: skip


@dataclass(frozen=True)
class _Class:
    """One class in one case."""

    mean: Floats
    within: Floats
    share: float
    depth: float


@dataclass(frozen=True)
class _Lesion:
    """A case's lesion: its classes, None if absent, and its radius in mm."""

    classes: tuple[_Class | None, ...]
    radius: float


def moments_of(cases: Sequence[CachedCase], spacing_mm: float, least: int) -> LesionMoments:
    """Return the moments of a hospital's cases, using at most its first 100.

    Parameters
    ----------
    cases : sequence of CachedCase
        At least one case.
    spacing_mm : float
        Voxel size of the grid in mm.
    least : int
        Least number of patients with a class. If fewer have it, it counts as absent and all its moments are 0.
    """
    chosen = cases[:_MOST_CASES]
    inside, lesions, modalities = _read(_Same(chosen), spacing_mm)
    return _moments(lesions, len({case.case.patient for case in chosen}), inside, modalities, least)


def nothing_to_share(least: int) -> str:
    """Return why a hospital's moments are all 0, to follow its name."""
    return (
        "shares no moments of its lesions, so later hospitals cannot paint them: fewer than "
        f"method.least_patients = {least} of its training patients have a lesion"
    )


class _Same:
    """Cases compared and hashed by identity, because the arrays of cases in memory cannot be hashed."""

    def __init__(self, cases: Sequence[CachedCase]) -> None:
        self.cases = tuple(cases)

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.cases)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and [*map(id, self.cases)] == [*map(id, other.cases)]


@lru_cache(maxsize=8)  # for the hospitals of a process, which ask every round and again after a stage
def _read(same: _Same, spacing_mm: float) -> tuple[NDArray[np.bool_], tuple[tuple[str, _Lesion], ...], int]:
    """Return which region lies inside which other, the lesions with their patients, and the number of modalities."""
    inside = _inside(case.prepared.mask for case in same.cases)
    lesions: list[tuple[str, _Lesion]] = []
    for case in same.cases:
        image, mask = case.prepared.image.astype(np.float32), case.prepared.mask.astype(bool)
        if mask.any():
            lesions.append((case.case.patient, _lesion(image, mask, inside, spacing_mm)))
    return inside, tuple(lesions), len(image)


def classes_of(mask: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return class masks from region masks, both (R, *grid); `inside`, (R, R), is as in `LesionMoments`."""
    return np.stack([region & ~mask[inner].any(0) for region, inner in zip(mask, inside.T, strict=True)])


def _inside(masks: Iterable[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Return which region lies inside which other, over all masks together."""
    common: NDArray[np.float64] | None = None
    for mask in masks:
        flat = mask.reshape(len(mask), -1).astype(np.float64)
        common = flat @ flat.T if common is None else common + flat @ flat.T
    if common is None:
        raise ValueError("no mask")
    size = np.diag(common)
    contained = (common >= _CONTAINED * size[:, None]) & (size[:, None] < size[None, :]) & (size[:, None] > 0)
    return np.asarray(contained)


def _lesion(image: Floats, mask: NDArray[np.bool_], inside: NDArray[np.bool_], spacing_mm: float) -> _Lesion:
    whole = mask.any(0)
    healthy = image[:, (image != 0).any(0) & ~whole]
    trust = healthy.shape[1] / (healthy.shape[1] + PRIOR_VOXELS)
    mean, variance = (
        (healthy.mean(1), healthy.var(1)) if healthy.shape[1] else (np.zeros(len(image)), np.zeros(len(image)))
    )
    mean, deviation = trust * mean, np.maximum(np.sqrt(trust * variance + 1 - trust), LEAST_DEVIATION)
    depth = ndimage.distance_transform_edt(np.asarray(whole))
    depth /= depth.max()
    found: list[_Class | None] = []
    for part in classes_of(mask, inside):
        if part.sum() < _LEAST_VOXELS:
            found.append(None)
            continue
        values = (image[:, part] - mean[:, None]) / deviation[:, None]
        share, deep = float(part.sum() / whole.sum()), float(depth[part].mean())
        found.append(_Class(values.mean(1), np.cov(values).reshape(len(values), -1), share, deep))
    return _Lesion(tuple(found), spacing_mm * float(3 * whole.sum() / (4 * np.pi)) ** (1 / 3))


def _moments(
    lesions: Sequence[tuple[str, _Lesion]], patients: int, inside: NDArray[np.bool_], modalities: int, least: int
) -> LesionMoments:
    regions = len(inside)
    shared = {name: np.zeros(shape, np.float32) for name, shape in LesionMoments.shapes(regions, modalities).items()}
    if len({patient for patient, _ in lesions}) < least:
        return LesionMoments(**shared)
    for number in range(regions):
        having = [(patient, c) for patient, lesion in lesions if (c := lesion.classes[number]) is not None]
        having_it = len({patient for patient, _ in having})
        if having_it < least:
            continue
        means = np.stack([c.mean for _, c in having])
        shares = np.log([c.share for _, c in having])
        shared["means"][number] = means.mean(0)
        if len(having) > 1:
            shared["between"][number] = np.cov(means.T)
        shared["within"][number] = np.mean([c.within for _, c in having], 0)
        share = max(SHARES_ROUNDED_TO * round(having_it / patients / SHARES_ROUNDED_TO), SHARES_ROUNDED_TO)
        shared["extent"][number] = share, shares.mean(), shares.std(), np.mean([c.depth for _, c in having])
    radii = np.log([lesion.radius for _, lesion in lesions])
    shared["inside"][:] = inside
    shared["size"][:] = radii.mean(), radii.std()
    shared["patients"][:] = max(_ROUNDED_TO, _ROUNDED_TO * round(patients / _ROUNDED_TO))
    return LesionMoments(**{name: values.clip(*MOMENTS_WITHIN[name]) for name, values in shared.items()})
