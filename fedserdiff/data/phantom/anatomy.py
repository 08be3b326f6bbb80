"""Healthy brains: MNI152 tissue maps, moved and deformed for each patient."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from nilearn import datasets
from numpy.typing import NDArray
from scipy import ndimage

# The MNI152 average is larger than a typical adult brain; this brings it into the field of view of BraTS's
# 155 mm high volumes (our choice).
_SIZE_RELATIVE_TO_MNI = 0.92


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions of one brain on a regular grid.

    Attributes
    ----------
    wm, gm, csf : ndarray of shape (X, Y, Z), float32
        Fraction of each tissue in a voxel, in [0, 1]; they sum to 1 inside the brain.
    brain : ndarray of shape (X, Y, Z), bool
        Mask of the brain.
    """

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    csf: NDArray[np.float32]
    brain: NDArray[np.bool_]


@lru_cache(maxsize=1)
def _mni(blur_mm: float) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return MNI152 grey, white and brain maps of shape (3, X, Y, Z) and their affine (voxel to mm), at 1 mm.

    `blur_mm` is the standard deviation of a Gaussian that averages over a coarser voxel's extent.
    """
    images = [
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    ]
    maps = [np.asarray(image.dataobj, np.float32) for image in images]
    if blur_mm > 0:
        maps = [ndimage.gaussian_filter(m, blur_mm) for m in maps]
    return np.stack(maps), images[0].affine


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma_voxels: float) -> NDArray[np.float32]:
    """Return smooth Gaussian noise of `shape` with unit standard deviation, correlated over `sigma_voxels`.

    White noise is filtered on a grid of about one point per `sigma_voxels` and then interpolated, because a wide filter
    at full resolution took most of the time of a phantom.
    """
    step = max(sigma_voxels / 2.0, 1.0)
    coarse_shape = [math.ceil(n / step) + 1 for n in shape]
    coarse = ndimage.gaussian_filter(rng.standard_normal(coarse_shape, np.float32), sigma_voxels / step)
    noise = F.interpolate(torch.from_numpy(coarse)[None, None], shape, mode="trilinear", align_corners=True)[0, 0]
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-8), np.float32)


def random_anatomy(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: float) -> Anatomy:
    """Draw one brain: MNI152 under a random affine and a smooth random displacement (our choice of ranges).

    Parameters
    ----------
    rng : numpy.random.Generator
        The patient's generator.
    shape : tuple of int
        Size of the patient's grid in voxels, with axes in RAS orientation.
    spacing_mm : float
        Isotropic voxel size in mm.
    """
    # Average over a voxel's extent before sampling, so that thin cortex remains as a partial volume.
    maps, mni_affine = _mni(max(spacing_mm - 1.0, 0.0) / 2.355)
    centre = (np.array(shape) - 1) / 2
    axes = [np.arange(n, dtype=np.float32) - c for n, c in zip(shape, centre, strict=True)]
    position = np.stack(np.meshgrid(*axes, indexing="ij")) * spacing_mm  # mm from the volume's centre

    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    scale = _SIZE_RELATIVE_TO_MNI * rng.uniform(0.95, 1.04, 3)
    matrix = _rotation(angles) / scale
    # mm, correlated over about 2 cm
    displacement = np.stack([3.0 * smooth_noise(rng, shape, 18.0 / spacing_mm) for _ in range(3)])
    brain_centre = np.array([0.0, -18.0, 8.0])  # of MNI152's brain mask, in MNI mm
    mni_mm = np.einsum("ij,j...->i...", matrix, position) + displacement + brain_centre[:, None, None, None]
    inverse = np.linalg.inv(mni_affine)
    mni_voxel = np.einsum("ij,j...->i...", inverse[:3, :3], mni_mm) + inverse[:3, 3][:, None, None, None]
    grey, white, brain = maps
    mask = ndimage.map_coordinates(brain, mni_voxel, order=1) > 0.5
    inside = mni_voxel[:, mask]  # three quarters of the voxels are outside
    gm, wm = (ndimage.map_coordinates(tissue, inside, order=1) for tissue in (grey, white))
    total = np.maximum(gm + wm, 1e-6)
    solid = np.minimum(gm + wm, 1.0)
    fractions = (wm / total * solid, gm / total * solid, 1.0 - solid)
    wm, gm, csf = (_in_brain(mask, part) for part in fractions)
    return Anatomy(wm=wm, gm=gm, csf=csf, brain=mask)


def _in_brain(mask: NDArray[np.bool_], inside: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return a volume with these values inside a mask and 0 outside."""
    volume = np.zeros(mask.shape, np.float32)
    volume[mask] = inside
    return volume


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation by `angles` (radians) about the three axes in turn."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def distance_to_edge(mask: NDArray[np.bool_], within: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance in voxels from each voxel of `mask` to the nearest one outside it; 0 outside.

    The result is valid only for the voxels of `within`, whose bounding box must hold the edges nearest to them.
    """
    box = ndimage.find_objects(within.astype(np.uint8))[0]
    wider = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    distance = np.zeros(mask.shape)
    distance[wider] = ndimage.distance_transform_edt(mask[wider])
    return distance
