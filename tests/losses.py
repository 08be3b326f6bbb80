"""The loss of one step, both networks' shares of each term added up."""

import torch

from fedserdiff.diffusion.objective import draws_for
from fedserdiff.diffusion.refiner import Student
from sites.objectives.base import Objective
from sites.step import coarse_losses, refiner_losses
from sites.training_set import Batch


def terms_of(objective: Objective, student: Student, batch: Batch, perturb: bool = True) -> dict[str, torch.Tensor]:
    """The weighted terms by name, under noise of seed 0."""
    lessons = objective.lessons(batch, torch.Generator().manual_seed(0))
    coarse, seen = coarse_losses(student, objective, lessons)
    draws = {name: draws_for(student, lesson, perturb) for name, lesson in lessons.items()}
    refiner = refiner_losses(student, objective, lessons, seen, draws)
    assert list(coarse) == list(refiner)
    return {name: coarse[name] + refiner[name] for name in coarse}
