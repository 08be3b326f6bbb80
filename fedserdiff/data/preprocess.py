"""NIfTI files to normalised arrays on the working grid, and predictions back to the scan's own grid."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedserdiff.data.cases import Case
from fedserdiff.data.releases import Release
from fedserdiff.errors import DataError

_CHUNK = 1 << 22
_AFFINE_TOLERANCE_MM = 1e-2
_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, zlib.error, ImageFileError, HeaderDataError)
_CLIP_SIGMA = 6.0  # beyond this a voxel is an artefact (vessel inflow, ringing), not tissue (our choice)


@dataclass(frozen=True)
class Geometry:
    """Where the working grid lies in the scan, in canonical (RAS) axes.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the canonical scan.
    spacing_mm : tuple of float
        Voxel size of the canonical scan.
    box_start, box_shape : tuple of int
        The brain's bounding box in the scan.
    inner_shape : tuple of int
        The box after resampling.
    pad_before : tuple of int
        Voxels of padding in front of the resampled box in the working grid.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    box_start: tuple[int, int, int]
    box_shape: tuple[int, int, int]
    inner_shape: tuple[int, int, int]
    pad_before: tuple[int, int, int]

    def to_scan(self, volume: torch.Tensor) -> torch.Tensor:
        """Resample channels on the working grid, (C, X, Y, Z), to the brain's box in the scan (C, *box_shape)."""
        inner = volume[(slice(None), *self._inner())]
        return F.interpolate(inner[None].float(), self.box_shape, mode="trilinear", align_corners=False)[0]

    def from_box(self, volume: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Resample channels in the brain's box, (C, *box_shape), to the working grid (C, *grid), padded with 0."""
        shrinks = all(i <= b for i, b in zip(self.inner_shape, self.box_shape, strict=True))
        if shrinks:  # averages over each new voxel: no aliasing, and the identity where the grids agree
            inner = F.interpolate(volume[None].float(), self.inner_shape, mode="area")[0]
        else:
            inner = F.interpolate(volume[None].float(), self.inner_shape, mode="trilinear", align_corners=False)[0]
        padded = torch.zeros(len(volume), *grid)
        padded[(slice(None), *self._inner())] = inner
        return padded

    def _inner(self) -> tuple[slice, ...]:
        return tuple(slice(p, p + n) for p, n in zip(self.pad_before, self.inner_shape, strict=True))


@dataclass(frozen=True)
class PreparedCase:
    """A case ready for the networks.

    Attributes
    ----------
    image : ndarray of shape (4, *grid), float16
        Modalities, z-scored inside the brain, 0 outside.
    mask : ndarray of shape (3, *grid), uint8
        Region masks on the working grid, 0 or 1: what training sees.
    truth : ndarray of shape (3, *box_shape), uint8
        Region masks at the scan's own resolution inside the brain's box: what predictions are scored against.
    geometry : Geometry
        How the two relate.
    voxel_hash : str
        SHA-256 of the canonical brain voxels: equal for the same scan under two releases' names.
    """

    image: NDArray[np.float16]
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    geometry: Geometry
    voxel_hash: str


def prepare_case(case: Case, release: Release, grid: tuple[int, int, int], spacing_mm: float) -> PreparedCase:
    """Read a case and bring it to the working grid.

    Steps: canonical orientation; bounding box of the brain (non-zero in any modality); z-score inside the brain;
    resampling to `spacing_mm` (coarser where the brain would not fit the grid); centring in `grid`.

    Raises
    ------
    DataError
        Where a file cannot be read, volumes disagree in shape or position, a value is not finite, a label is
        not the release's, or the brain is empty.
    """
    first = _read(case.images[0])
    volumes = [_checked_voxels(path, _read(path), first, case.images[0]) for path in case.images]
    labels = _checked_voxels(case.seg, _read(case.seg), first, case.images[0])
    if not np.array_equal(labels, np.round(labels)):
        raise DataError(f"{case.seg}: labels are not whole numbers: was the segmentation interpolated?")
    try:
        truth = release.region_masks(labels.astype(np.int64))
    except DataError as error:
        raise DataError(f"{case.seg}: {error}") from None

    image = np.stack(volumes)
    brain = (image != 0).any(0)
    if not brain.any():
        raise DataError(f"{case.images[0].parent}: every voxel of every modality is 0: there is no brain")
    box = _bounding_box(brain | truth.any(0))
    of_brain = image[(slice(None), *_bounding_box(brain))]  # labels may differ between releases of one scan

    spacing = tuple(float(s) for s in voxel_sizes(first.affine))
    geometry = _place(brain.shape, spacing, box, grid, spacing_mm)
    scored = np.stack([_zscore(v, brain, p) for v, p in zip(image, case.images, strict=True)])
    boxed = (slice(None), *box)
    on_grid = geometry.from_box(torch.from_numpy(scored[boxed]), grid)
    mask = geometry.from_box(torch.from_numpy(truth[boxed].astype(np.float32)), grid) >= 0.5
    return PreparedCase(
        image=on_grid.numpy().astype(np.float16),
        mask=mask.numpy().astype(np.uint8),
        truth=truth[boxed].astype(np.uint8),
        geometry=geometry,
        voxel_hash=hashlib.sha256(np.ascontiguousarray(of_brain, np.float32).tobytes()).hexdigest(),
    )


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the smallest box that holds a mask of shape (X, Y, Z) with at least one voxel."""
    spans = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)


def _read(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file in canonical orientation."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as whole:  # to its end: only there is the checksum, which nibabel may not reach
                while whole.read(_CHUNK):
                    pass
        image = nib.load(path)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: truncated or damaged ({error})") from None
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable NIfTI file ({error})") from None
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: not a NIfTI file")
    if len(image.shape) != 3:
        raise DataError(f"{path}: {len(image.shape)} dimensions, shape {image.shape}: one 3D volume is expected")
    with ImageOpener(path) as file:  # the header as it is on disk: nibabel turns a size of 0 into 1 mm
        on_disk = image.header_class.from_fileobj(file, check=False)["pixdim"][1:4]
    for sizes in (np.abs(on_disk), voxel_sizes(image.affine)):
        if not (np.isfinite(sizes).all() and (sizes > 0).all()):
            raise DataError(f"{path}: voxel size {tuple(float(s) for s in sizes)} mm is not positive")
    try:
        return nib.as_closest_canonical(image)  # reads the voxels already where axes have to turn
    except _UNREADABLE as error:
        raise DataError(f"{path}: truncated or damaged ({error})") from None


def _checked_voxels(
    path: Path, image: nib.Nifti1Image, first: nib.Nifti1Image, first_path: Path
) -> NDArray[np.float32]:
    """Return an image's voxels after checking that it lies where the first modality lies and is finite."""
    if image.shape != first.shape:
        raise DataError(f"{path}: shape {image.shape} differs from {first.shape} of {first_path.name}")
    if not np.allclose(image.affine, first.affine, atol=_AFFINE_TOLERANCE_MM):
        raise DataError(f"{path}: affine differs from that of {first_path.name}: the volumes are not aligned")
    try:
        voxels = image.get_fdata(dtype=np.float32)
    except _UNREADABLE as error:
        raise DataError(f"{path}: truncated or damaged ({error})") from None
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise DataError(f"{path}: {bad} voxels are NaN or infinite")
    return np.asarray(voxels)


def _zscore(volume: NDArray[np.float32], brain: NDArray[np.bool_], path: Path) -> NDArray[np.float32]:
    """Scale a modality to mean 0 and standard deviation 1 inside the brain, and to 0 outside."""
    inside = volume[brain].astype(np.float64)
    deviation = float(inside.std())
    if deviation == 0:
        raise DataError(f"{path}: the same value in every brain voxel: nothing was recorded in this modality")
    scored = np.clip((volume - inside.mean()) / deviation, -_CLIP_SIGMA, _CLIP_SIGMA)
    return np.where(brain, scored, 0).astype(np.float32)


def _place(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    box: tuple[slice, ...],
    grid: tuple[int, int, int],
    spacing_mm: float,
) -> Geometry:
    """Find the resampled size of the brain's box and centre it in the grid."""
    box_shape = tuple(s.stop - s.start for s in box)
    inner = tuple(min(n, max(1, round(b * mm / spacing_mm))) for b, mm, n in zip(box_shape, spacing, grid, strict=True))
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
