"""Segment a whole volume, in 2D slice by slice or in 3D at once."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.device import to_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.threads import each

_VOXELS_AT_ONCE = {"cpu": 4 * 160 * 192, "cuda": 160 * 160 * 192}
"""Of slices in one batch, by device: what a core's caches hold, and a whole volume at 1 mm."""

_LEAST_BATCHES = {"cpu": 4, "cuda": 1}
"""So that cores share a small volume evenly; no fewer on one core, which then computes the same sums."""

REFINED_FROM = 0.02
"""A slice is refined where the coarse network gives some voxel of it at least this probability of tumour."""


def predict_volume(
    student: Student,
    image: NDArray[np.float16],
    steps: int,
    generator: torch.Generator,
    adapter: SiteAdapter | None = None,
    flips: bool = False,
) -> Prediction:
    """Segment one scan on the working grid.

    A slice, or a volume in 3D, in which the coarse network sees no tumour at all is not refined: its error map is 0
    (our choice, measured: docs/explanation/performance.md). A slice meets the same noise whatever is done with others.

    Parameters
    ----------
    student : Student
        2D or 3D.
    image : ndarray of shape (4, X, Y, Z)
        z-scored modalities, 0 outside the brain.
    steps : int
        K of the sampler.
    generator : torch.Generator
        On the student's device.
    adapter : SiteAdapter, optional
        Translates the scan before the student sees it; on the student's device.
    flips : bool
        Whether the scan is also shown left for right, and coarse and refined probabilities are the means of both. Each
        is refined from the same noise, which is not turned with it: the mask of a scan turned left for right is the
        scan's mask turned so. What Ê then says is by how much the mean refined differs from the mean coarse one.

    Returns
    -------
    Prediction
        Each field of shape (3, X, Y, Z), on the CPU. Slices with no brain are 0.
    """
    volume = to_device(torch.from_numpy(np.array(image, order="C")), generator.device).float()
    samples = volume[None] if len(student.spatial_shape) == 3 else volume.permute(3, 0, 1, 2)  # slices (Z, 4, X, Y)
    was_training = student.training
    student.eval()
    try:
        noise = student.noise(len(samples), generator)
        found = _predict(student, samples, steps, noise, adapter)
        if flips:
            found = _mean(found, _predict(student, samples.flip(2), steps, noise, adapter).flip(3))  # X, of RAS
        found = found.cpu()
    finally:
        student.train(was_training)
    if len(student.spatial_shape) == 3:
        return Prediction(*found[:, 0])
    return Prediction(*found.permute(0, 2, 3, 4, 1))


def _mean(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return P and Ê, (2, N, 3, *grid), of which P, and what it is refined to, are the means of two predictions'."""
    coarse = (one[0] + other[0]) / 2
    refined = (Prediction(*one).refined + Prediction(*other).refined) / 2
    return torch.stack([coarse, refined - coarse])


def _predict(
    student: Student, samples: torch.Tensor, steps: int, noise: torch.Tensor, adapter: SiteAdapter | None
) -> torch.Tensor:
    """Segment slices or volumes, (N, 4, *grid), in batches of what is left to do; return P and Ê, (2, N, 3, *grid).

    All of it stays on their device. That is waited for once for each of the two, to learn how much there is to do.
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
    """Return the numbers of the samples in which anything is true, in batches for a device."""
    found = torch.nonzero(true.flatten(1).any(1))[:, 0]
    most = _VOXELS_AT_ONCE[device.type] // true[0, 0].numel()
    size = min(most, math.ceil(len(found) / _LEAST_BATCHES[device.type]))
    return [batch for batch in found.split(max(size, 1)) if len(batch)]
