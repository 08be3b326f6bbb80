"""Preparation of NIfTI files as normalised arrays on the working grid, and the way back to the scan's own grid."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fedserdiff.data.cases import Case
from fedserdiff.data.nifti import Volume, read_volume
from fedserdiff.data.releases import Convention
from fedserdiff.errors import DataError, Faults

_APART_MM = 0.1  # volumes whose corners differ by more than this are not aligned
_CLIP_SIGMA = 6.0  # beyond this a voxel is an artefact (vessel inflow, ringing), not tissue (our choice)
_LEAST_CONTRAST = 1e-9  # smallest ratio of the standard deviation to the largest absolute value
_MOST_LABELS = 16  # more than any release has
_LARGEST_STEP = 0.2  # between stored values: at least five per label; a coarser scale would round anything to labels
_EXACT = 2.0**53  # integers below this are exact in float64


@dataclass(frozen=True)
class Geometry:
    """Where the working grid lies in the scan, in canonical (RAS) axes.

    Attributes
    ----------
    shape : tuple of int
        Size of the canonical scan in voxels.
    spacing_mm : tuple of float
        Voxel size of the canonical scan.
    box_start, box_shape : tuple of int
        Bounding box of the brain in the scan.
    inner_shape : tuple of int
        Size of the box after resampling.
    pad_before : tuple of int
        Voxels of padding before the resampled box in the working grid.
    margin_before, margin_after : tuple of int
        Voxels by which labels extend beyond the brain's box. They count in scores, but are not part of any input.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    box_start: tuple[int, int, int]
    box_shape: tuple[int, int, int]
    inner_shape: tuple[int, int, int]
    pad_before: tuple[int, int, int]
    margin_before: tuple[int, int, int] = (0, 0, 0)
    margin_after: tuple[int, int, int] = (0, 0, 0)

    @property
    def scored_shape(self) -> tuple[int, int, int]:
        """Size in voxels of the box that holds the brain and all labels: the brain's box with its margins."""
        x, y, z = (b + n + a for b, n, a in zip(self.margin_before, self.box_shape, self.margin_after, strict=True))
        return x, y, z

    def to_scored(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample channels as `to_scan` does and pad the margins with 0; return shape (C, *scored_shape)."""
        margins = zip(reversed(self.margin_before), reversed(self.margin_after), strict=True)  # F.pad's order
        return F.pad(self.to_scan(volume), [n for pair in margins for n in pair])

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel of the canonical scan in mL."""
        x, y, z = self.spacing_mm
        return x * y * z / 1000

    @property
    def grid_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the working grid in mm."""
        sides = zip(self.spacing_mm, self.box_shape, self.inner_shape, strict=True)
        x, y, z = (mm * whole / resampled for mm, whole, resampled in sides)
        return x, y, z

    def to_scan(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample channels on the working grid, (C, X, Y, Z), to the brain's box in the scan (C, *box_shape)."""
        return _resampled(volume[(slice(None), *self._inner())], self.box_shape)

    def from_box(self, volume: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Resample channels in the brain's box, (C, *box_shape), to the working grid (C, *grid), padded with 0."""
        if all(i <= b for i, b in zip(self.inner_shape, self.box_shape, strict=True)):
            # Mean over each new voxel (they overlap if sizes are not multiples); the identity if the grids agree.
            inner = F.interpolate(volume[None].float(), self.inner_shape, mode="area")[0]
        else:
            inner = _resampled(volume, self.inner_shape)
        padded = torch.zeros(len(volume), *grid)
        padded[(slice(None), *self._inner())] = inner
        return padded

    def _inner(self) -> tuple[slice, ...]:
        return tuple(slice(p, p + n) for p, n in zip(self.pad_before, self.inner_shape, strict=True))


Box = tuple[slice, slice, slice]

_WHOLE = slice(None)


class PreparedCase(Protocol):
    """A case that is ready for the networks, in memory or on disk.

    Attributes
    ----------
    image : ndarray of shape (modalities, *grid), float16
        Modalities, z-scored inside the brain and 0 outside.
    mask : ndarray of shape (regions, *grid), uint8
        Region masks on the working grid, 0 or 1, as used in training.
    truth : ndarray of shape (regions, *scored_shape), uint8
        Region masks at the scan's own resolution, in the box of brain and labels; predictions are scored against them.
    geometry : Geometry
        How the working grid relates to the scan.
    voxel_hash : str
        SHA-256 of the canonical brain voxels. It is equal for one scan that two releases name differently.
    tumour_voxels : int
        Number of voxels of the grid that belong to any region.
    """

    @property
    def image(self) -> NDArray[np.float16]: ...

    @property
    def mask(self) -> NDArray[np.uint8]: ...

    @property
    def truth(self) -> NDArray[np.uint8]: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def voxel_hash(self) -> str: ...

    @property
    def tumour_voxels(self) -> int: ...

    def slices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the indices of the axial slices that show brain, and of those that show tumour, in ascending order."""
        ...

    def boxed(self, axial: slice = _WHOLE) -> tuple[Box, NDArray[np.float16], NDArray[np.uint8]]:
        """Return a box of the grid outside which everything is 0, with the image and masks inside it.

        `axial` restricts the box to some axial slices. The image has shape (modalities, x, y, z) and the masks have
        shape (regions, x, y, z); z is 0 if those slices show nothing. The box's slices start at 0 or more, with step 1.
        """
        ...


@dataclass(frozen=True)
class CaseArrays:
    """A prepared case in memory."""

    image: NDArray[np.float16]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    geometry: Geometry
    voxel_hash: str

    @property
    def tumour_voxels(self) -> int:
        return int(self.mask.any(0).sum())

    def slices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.flatnonzero(np.any(self.image != 0, (0, 1, 2))), np.flatnonzero(np.any(self.mask, (0, 1, 2)))

    def boxed(self, axial: slice = _WHOLE) -> tuple[Box, NDArray[np.float16], NDArray[np.uint8]]:
        _, x, y, z = self.image.shape
        start, stop, _ = axial.indices(z)
        box = (slice(0, x), slice(0, y), slice(start, max(stop, start)))
        return box, self.image[(slice(None), *box)], self.mask[(slice(None), *box)]

    @classmethod
    def showing(cls, case: PreparedCase, image: NDArray[np.float16], mask: NDArray[np.uint8]) -> "CaseArrays":
        """Return a copy of `case` with another image and mask."""
        return cls(image, mask, case.truth, case.geometry, case.voxel_hash)


@dataclass(frozen=True)
class PreparedScan:
    """A scan that is ready for the networks, with or without a segmentation.

    Attributes
    ----------
    image : ndarray of shape (modalities, *grid), float16
        Modalities, z-scored inside the brain and 0 outside.
    geometry : Geometry
        How the working grid relates to the scan.
    voxel_hash : str
        As for `PreparedCase`.
    first : Volume
        The first modality as it was read.
    """

    image: NDArray[np.float16]
    geometry: Geometry
    voxel_hash: str
    first: Volume


def prepare_scan(
    images: Sequence[Path], channels: Sequence[int], grid: tuple[int, int, int], spacing_mm: float
) -> PreparedScan:
    """Read a scan's modalities and bring them to the working grid, without using any segmentation.

    The steps are: canonical orientation; bounding box of the brain (non-zero in any modality); z-score inside the
    brain; resampling to `spacing_mm` (coarser, by the same factor on all axes, if the brain would not fit the grid);
    centring in `grid`.

    Raises
    ------
    DataError
        As for `read_volume`, and if volumes disagree in shape or position, the brain is empty, or a modality is
        constant in it. The error covers all files at fault.
    """
    volumes: list[Volume] = []
    faults = Faults(DataError)
    for path, channel in zip(images, channels or repeat(None), strict=False):
        with faults.caught():
            volumes.append(read_volume(path, channel))
            check_aligned(volumes[-1], volumes[0])
    faults.check()
    first = volumes[0]
    folder = images[0].parent
    brain = np.any([volume.voxels != 0 for volume in volumes], axis=0)
    if not brain.any():
        raise DataError(f"{folder}: every voxel of every modality is 0: no brain found")
    box = bounding_box(brain)
    hashed = np.stack([volume.voxels[box].astype(np.float32) for volume in volumes])

    geometry = _place(brain.shape, first.spacing_mm, box, grid, spacing_mm)
    scored = []
    for volume in volumes:
        with faults.caught():
            scored.append(_zscore(volume.voxels[box], brain[box], volume.path))
    faults.check()
    on_grid = geometry.from_box(torch.from_numpy(np.stack(scored)), grid).numpy().astype(np.float16)
    if not on_grid.any():
        size = " × ".join(f"{(s.stop - s.start) * mm:g}" for s, mm in zip(box, first.spacing_mm, strict=True))
        raise DataError(
            f"{folder}: nothing is left of a {size} mm brain at {spacing_mm:g} mm spacing: are the voxel sizes right?"
        )
    return PreparedScan(on_grid, geometry, hashlib.sha256(hashed.tobytes()).hexdigest(), first)


def prepare_case(case: Case, grid: tuple[int, int, int], spacing_mm: float) -> CaseArrays:
    """Read a case with its segmentation and bring both to the working grid.

    Raises
    ------
    DataError
        As for `prepare_scan`, and if the segmentation is not aligned, or the convention does not define a label.
    """
    faults = Faults(DataError)
    with faults.caught():
        scan = prepare_scan(case.images, case.channels, grid, spacing_mm)
    with faults.caught():
        seg = read_volume(case.seg)
        truth = segmented_regions(seg, case.convention)
    faults.check()
    check_aligned(seg, scan.first)

    geometry = scan.geometry
    starts, sizes = geometry.box_start, geometry.box_shape
    box = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    in_box = torch.from_numpy(truth[(slice(None), *box)].astype(np.float32))
    mask = geometry.from_box(in_box, grid) >= 0.5
    inside = np.zeros(seg.shape, bool)
    inside[box] = True
    scored = bounding_box(inside | truth.any(0))
    before, after = zip(*((b.start - s.start, s.stop - b.stop) for b, s in zip(box, scored, strict=True)), strict=True)
    return CaseArrays(
        image=scan.image,
        mask=mask.numpy().astype(np.uint8),
        truth=truth[(slice(None), *scored)].astype(np.uint8),
        geometry=replace(geometry, margin_before=before, margin_after=after),
        voxel_hash=scan.voxel_hash,
    )


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds all voxels of a non-empty mask of shape (X, Y, Z)."""
    x, y, z = (np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))) for axis in range(3))
    return slice(int(x[0]), int(x[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(z[0]), int(z[-1]) + 1)


def check_aligned(volume: Volume, first: Volume) -> None:
    """Check that a volume is aligned with another one: that all their corners coincide.

    Raises
    ------
    DataError
        If shapes differ, or a corner is more than 0.1 mm off. The message names the file of `volume`.
    """
    if volume.shape != first.shape:
        raise DataError(f"{volume.path}: shape {volume.shape} differs from {first.shape} of {first.path.name}")
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in first.shape))])
    apart = np.abs((volume.affine - first.affine)[:3] @ corners.T)
    if not apart.max() <= _APART_MM:
        raise DataError(f"{volume.path}: affine differs from that of {first.path.name}: the volumes are not aligned")


def segmented_regions(seg: Volume, convention: Convention) -> NDArray[np.bool_]:
    """Return a segmentation's region masks, (regions, X, Y, Z), in the convention's order.

    Raises
    ------
    DataError
        If values are not whole numbers, or the convention does not define a label. The message names the file.
    """
    labels = seg.voxels
    if labels.dtype.kind == "f":
        labels = np.round(labels)
        if np.abs(seg.voxels - labels).max() > _rounding_of(seg):
            slope, inter = seg.scaling
            scaled = f" after the header's scaling (scl_slope {slope:g}, scl_inter {inter:g}): save them unscaled"
            why = ": was the segmentation interpolated?" if (slope, inter) == (1, 0) else scaled
            raise DataError(f"{seg.path}: labels are not whole numbers{why}")
        if np.abs(labels).max() < _EXACT:
            labels = labels.astype(np.int64)
    count = len(np.unique(labels))
    if count > _MOST_LABELS:
        raise DataError(f"{seg.path}: {count} different labels: is it a scan rather than a segmentation?")
    try:
        return convention.region_masks(labels)
    except DataError as error:
        raise DataError(f"{seg.path}: {error}") from None


def _rounding_of(seg: Volume) -> float:
    """Return how far a stored value may lie from its label because of rounding in the header's scaling.

    Scaled integers are off by half a step, and by the 32-bit rounding of slope and intercept. Other files may have been
    saved through 16 bits earlier: they are off by half of 1/65535 of the range, and a slope by as much again (our
    choice).
    """
    slope, inter = seg.scaling
    most = float(np.abs(seg.voxels).max())
    if seg.of_integers and abs(slope) <= _LARGEST_STEP:
        return abs(slope) / 2 + 2 * float(np.finfo(np.float32).eps) * (most + abs(inter))
    return min(most / 2**16, _LARGEST_STEP / 2)


def _resampled(volume: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Resample channels (C, X, Y, Z) to `shape`; the outer faces of the box stay in place.

    Along an axis that grows, values are interpolated linearly. Along an axis that shrinks, they are first interpolated
    to the next multiple of the new size and then averaged, so that each mean covers whole voxels around its centre.
    """
    sizes = zip(volume.shape[1:], shape, strict=True)
    multiple = tuple(new * -(-old // new) for old, new in sizes)
    fine = F.interpolate(volume[None].float(), multiple, mode="trilinear", align_corners=False)
    return (fine if multiple == shape else F.interpolate(fine, shape, mode="area"))[0]


def _zscore(volume: NDArray[Any], brain: NDArray[np.bool_], path: Path) -> NDArray[np.float32]:
    """Scale a modality to mean 0 and standard deviation 1 inside the brain; set it to 0 outside."""
    inside = volume[brain].astype(np.float64)
    deviation = float(inside.std())
    if deviation <= _LEAST_CONTRAST * float(np.abs(inside).max()):  # rounding gives even equal values a deviation
        raise DataError(f"{path}: every brain voxel has the same value: this modality recorded nothing")
    scored = np.clip((volume - inside.mean()) / deviation, -_CLIP_SIGMA, _CLIP_SIGMA)
    return np.where(brain, scored, 0).astype(np.float32)


def _place(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    box: tuple[slice, ...],
    grid: tuple[int, int, int],
    spacing_mm: float,
) -> Geometry:
    """Find the resampled size of the brain's box and centre it in the grid.

    If one axis would not fit, all axes are sampled more coarsely by the same factor, so that the brain keeps its shape
    (our choice).
    """
    box_shape = tuple(s.stop - s.start for s in box)
    sides = [b * mm / spacing_mm for b, mm in zip(box_shape, spacing, strict=True)]
    coarser = max([1.0, *(side / n for side, n in zip(sides, grid, strict=True) if round(side) > n)])
    inner = tuple(max(1, round(side / coarser)) for side in sides)
    return Geometry(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        box_start=(box[0].start, box[1].start, box[2].start),
        box_shape=(box_shape[0], box_shape[1], box_shape[2]),
        inner_shape=(inner[0], inner[1], inner[2]),
        pad_before=(
            (grid[0] - inner[0]) // 2,
            (grid[1] - inner[1]) // 2,
            (grid[2] - inner[2]) // 2,
        ),
    )
