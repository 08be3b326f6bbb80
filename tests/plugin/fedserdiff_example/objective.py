"""The hospital's half."""

import torch

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.seeding import generator
from fedserdiff.wire import Memory
from fedserdiff_example.method import SHARES, SizePriorSettings
from sites.objectives.base import Objective
from sites.training_set import Batch, TrainingSet


class SizePriorObjective(Objective):
    """L = L_seg + strength · mean (share − prior)²; without a past it is L_seg to the last digit."""

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        self._image = batch.image
        return super().lessons(batch, noise)

    def penalties(self, network: str, student: Student) -> dict[str, torch.Tensor]:
        strength = SizePriorSettings.of(self.config.method).strength
        prior = self.memory.get(SHARES)
        if network != "coarse" or prior is None or strength == 0:
            return {}
        shares = _shares(student, self._image)
        return {"prior": strength * (shares - prior["shares"].to(shares.device)).square().mean()}

    @torch.no_grad()
    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        draws = generator(self.config.seed, SHARES, site, stage)
        batch = training_set.batch(training_set.draw(self.config.training.batch_size, draws))
        return {SHARES: {"shares": _shares(student, batch.image)}}


def _shares(student: Student, image: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(student.coarse_logits(image)).transpose(0, 1).flatten(1).mean(1)
