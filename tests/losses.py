"""The loss of one step, both networks' shares of each term added up."""

import torch

from fedserdiff.diffusion.objective import coarse_terms, refiner_terms
from fedserdiff.diffusion.refiner import Student
from sites.hospital import Batch
from sites.objectives.base import Objective
from sites.training import weighted_terms


def terms_of(objective: Objective, student: Student, batch: Batch, perturb: bool = True) -> dict[str, torch.Tensor]:
    """The weighted terms by name, under noise of seed 0."""
    lessons = objective.lessons(batch, torch.Generator().manual_seed(0))
    found = {name: coarse_terms(student, lesson) for name, lesson in lessons.items()}
    of_refiner = {name: refiner_terms(student, lesson, found[name][1], perturb) for name, lesson in lessons.items()}
    coarse = weighted_terms(objective, "coarse", student, {name: terms for name, (terms, _) in found.items()})
    refiner = weighted_terms(objective, "refiner", student, of_refiner)
    assert list(coarse) == list(refiner)
    return {name: coarse[name] + refiner[name] for name in coarse}
