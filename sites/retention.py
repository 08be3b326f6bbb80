"""Retention of an earlier hospital: students' Dice on its lesions, painted into this hospital's scans."""

import copy
from collections.abc import Sequence

import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.lesions.brush import Painter
from fedserdiff.lesions.painting import paint
from sites.training_set import TrainingSet

_LEAST_VOXELS = 100  # of a region in all painted samples


def interpolated(student: Student, standing: Student, inertia: float) -> Student:
    """Return the final student of a stage in which only this hospital trains: `student` interpolated with `standing`.

    Neither argument is changed.
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

    All samples together count as one volume. A region with fewer than 100 voxels gets NaN (our choice), because a few
    false positives would dominate its Dice.

    Parameters
    ----------
    students : sequence of Student
        Students on the samples' device. Their training mode is restored afterwards.
    samples : TrainingSet
    index : Tensor of shape (N,)
        Indices of the samples to paint.
    painter : Painter
    whitening : Tensor of shape (R, M, M)
        As in `paint`.
    draws, noise : torch.Generator
        Generators on the host and on the samples' device.
    batch_size : int
        Number of samples at a time.
    steps : int
        Number of sampling steps K.
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
    """Return the number of voxels in each region (R,) of masks (N, R, *grid)."""
    return masks.transpose(0, 1).flatten(1).sum(1)
