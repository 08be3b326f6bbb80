"""Segmentation of whole volumes: slice by slice in 2D, at once in 3D, or in windows after training on patches."""

import math
from functools import partial

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray

from fedserdiff.device import to_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.threads import each

_VOXELS_AT_ONCE = {"cpu": 4 * 160 * 192, "cuda": 160 * 160 * 192}
"""Voxels of the slices in one batch, by device: what a core's caches hold, and a whole volume at 1 mm."""

_LEAST_BATCHES = {"cpu": 4, "cuda": 1}
"""Least number of batches, so that cores share a small volume evenly. It does not depend on the number of cores, so
that one core computes the same sums."""

REFINED_FROM = 0.02
"""A slice is refined if the coarse network gives any of its voxels at least this probability of tumour."""


def predict_volume(
    student: Student,
    image: NDArray[np.float16],
    steps: int,
    generator: torch.Generator,
    adapter: SiteAdapter | None = None,
    flips: bool = False,
    overlap: float = 0.5,
) -> Prediction:
    """Segment one scan on the working grid.

    If the coarse network sees no tumour in a slice (in 3D: in the volume), it is not refined and its error map is 0
    (our choice, measured: docs/explanation/performance.md). A slice's noise does not depend on the other slices.

    A student trained on patches sees one window of the patch size at a time, and each window is refined or not.
    Overlapping windows start from the same noise in their overlap. Their coarse and refined probabilities are averaged
    with a Gaussian weight around each window's centre (as in nnU-Net: the standard deviation is 1/8 of the width). At
    most one batch of windows is in memory at a time, however large the grid is.

    Parameters
    ----------
    student : Student
        2D or 3D student.
    image : ndarray of shape (4, X, Y, Z)
        z-scored modalities, 0 outside the brain.
    steps : int
        Number of sampling steps K.
    generator : torch.Generator
        Generator on the student's device.
    adapter : SiteAdapter, optional
        Translates the scan before the student sees it; on the student's device.
    flips : bool
        Whether to also segment the scan mirrored left to right, and average the coarse and refined probabilities of
        both. Both are refined from the same noise, which is not mirrored, so that a mirrored scan gives the mirrored
        mask. Ê is then the difference between the mean refined and the mean coarse probabilities.
    overlap : float
        Overlap of neighbouring windows as a share of their width, from 0 to less than 1.

    Returns
    -------
    Prediction
        Each field has shape (3, X, Y, Z), on the CPU. Slices without brain are 0.
    """
    volume = to_device(torch.from_numpy(np.array(image, order="C")), generator.device).float()
    samples = volume[None] if len(student.spatial_shape) == 3 else volume.permute(3, 0, 1, 2)  # slices (Z, 4, X, Y)
    was_training = student.training
    student.eval()
    try:
        noise = student.noise(len(samples), generator, samples.shape[2:])
        whole = student.spatial_shape == samples.shape[2:]
        predict = _predict if whole else partial(_predict_windows, overlap=overlap)
        found = predict(student, samples, steps, noise, adapter)
        if flips:
            found = _mean(found, predict(student, samples.flip(2), steps, noise, adapter).flip(3))  # X, of RAS
        found = found.cpu()
    finally:
        student.train(was_training)
    if len(student.spatial_shape) == 3:
        return Prediction(*found[:, 0])
    return Prediction(*found.permute(0, 2, 3, 4, 1))


def _mean(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return P and Ê, (2, N, 3, *grid), whose coarse and refined probabilities are the means of two predictions."""
    coarse = (one[0] + other[0]) / 2
    refined = (Prediction(*one).refined + Prediction(*other).refined) / 2
    return torch.stack([coarse, refined - coarse])


def _predict_windows(
    student: Student,
    samples: torch.Tensor,
    steps: int,
    noise: torch.Tensor,
    adapter: SiteAdapter | None,
    overlap: float,
) -> torch.Tensor:
    """Segment slices or volumes, (N, 4, *grid), window by window; return blended P and Ê, (2, N, 3, *grid)."""

    def predicted(windows: torch.Tensor, places: list[list[slice]]) -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.cat([noise[tuple(place)] for place in places])
        found = _predict(student, windows, steps, starts, adapter)
        return found[0], Prediction(*found).refined

    kind, shape = samples.device.type, student.spatial_shape
    at_once = max(_VOXELS_AT_ONCE[kind] // math.prod(shape), _LEAST_BATCHES[kind])
    coarse, refined = sliding_window_inference(
        samples, shape, at_once, predicted, overlap, mode="gaussian", with_coord=True
    )
    return torch.stack([coarse, refined - coarse])


def _predict(
    student: Student, samples: torch.Tensor, steps: int, noise: torch.Tensor, adapter: SiteAdapter | None
) -> torch.Tensor:
    """Segment slices or volumes, (N, 4, *grid), in batches of those that need it; return P and Ê, (2, N, 3, *grid).

    Everything stays on the samples' device. The host waits for it twice, before the coarse and the refining pass, to
    learn which samples need them.
    """
    device = samples.device
    found = torch.zeros(2, *noise.shape, device=device)
    coarse, error = found

    @torch.no_grad()  # in each thread
    def seen(batch: torch.Tensor) -> torch.Tensor:
        return samples[batch] if adapter is None else adapter(samples[batch])

    def segment(batch: torch.Tensor) -> None:
        coarse[batch] = student.segment(seen(batch))

    def refine(batch: torch.Tensor) -> None:
        error[batch] = student.sample(student.context(seen(batch), coarse[batch]), steps, noise[batch])

    each(device, segment, _batches_where(samples != 0, device))
    each(device, refine, _batches_where(coarse >= REFINED_FROM, device))
    return found


def _batches_where(true: torch.Tensor, device: torch.device) -> list[torch.Tensor]:
    """Return the indices of the samples in which any value is true, in batches for a device."""
    found = torch.nonzero(true.flatten(1).any(1))[:, 0]
    most = _VOXELS_AT_ONCE[device.type] // true[0, 0].numel()
    size = min(most, math.ceil(len(found) / _LEAST_BATCHES[device.type]))
    return [batch for batch in found.split(max(size, 1)) if len(batch)]
