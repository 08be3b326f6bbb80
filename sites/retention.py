"""What students keep of an earlier hospital: Dice on its lesions, painted into this hospital's scans."""

import copy
from collections.abc import Sequence

import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.lesions.brush import Painter
from fedserdiff.lesions.painting import paint
from sites.training_set import TrainingSet

_LEAST_VOXELS = 100  # of a region, of all painted samples


def interpolated(student: Student, standing: Student, inertia: float) -> Student:
    """Return the student that a stage of this hospital alone ends with: by FedAvg, and with a share of the last one.

    Both are left as they are.
    """
    if inertia == 0:
        return student
    mixed = copy.deepcopy(student)
    with torch.no_grad():
        for own, old in zip(mixed.parameters(), standing.parameters(), strict=True):
            own.lerp_(old, inertia)
    return mixed


@torch.no_grad()
def painted_dice(
    students: Sequence[Student],
    samples: TrainingSet,
    index: torch.Tensor,
    painter: Painter,
    whitening: torch.Tensor,
    draws: torch.Generator,
    noise: torch.Generator,
    batch_size: int,
    steps: int,
) -> torch.Tensor:
    """Return each student's Dice of refined masks on the same painted samples, (S, R), float64 on the host.

    All samples together count as one volume. It is NaN of a region of which they show fewer than 100 voxels (our
    choice): few that are made up would cost all of it.

    Parameters
    ----------
    students : sequence of Student
        On the samples' device. They are in the mode that they came in afterwards.
    samples : TrainingSet
    index : Tensor of shape (N,)
        Of the samples to paint.
    painter : Painter
    whitening : Tensor of shape (R, M, M)
        As `paint` takes it.
    draws, noise : torch.Generator
        On the host, and on the samples' device.
    batch_size : int
        Samples at a time.
    steps : int
        K of the sampler.
    """
    modes = [student.training for student in students]
    regions = whitening.shape[0]
    common, sizes = (torch.zeros(len(students), regions, dtype=torch.long, device=noise.device) for _ in range(2))
    there = torch.zeros(regions, dtype=torch.long, device=noise.device)
    for rows in index.split(batch_size):
        batch = samples.batch(rows)
        image, truth = paint(batch.image, batch.truth, painter.draw(batch.image.shape, draws, noise), whitening)
        true, start = truth.bool(), students[0].noise(len(image), noise)
        there += _voxels(true)
        for number, student in enumerate(students):
            mask = student.eval().predict(image, steps, start).refined > 0.5
            common[number] += _voxels(mask & true)
            sizes[number] += _voxels(mask) + _voxels(true)
    for student, mode in zip(students, modes, strict=True):
        student.train(mode)
    dice = 2 * common.double() / sizes.clamp(min=1)
    return torch.where(there >= _LEAST_VOXELS, dice, torch.nan).cpu()


def _voxels(masks: torch.Tensor) -> torch.Tensor:
    """Return how many voxels each region (R,) of masks (N, R, *grid) has."""
    return masks.transpose(0, 1).flatten(1).sum(1)
