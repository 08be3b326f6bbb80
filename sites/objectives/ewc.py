"""Elastic weight consolidation: weights that matter to earlier hospitals stay near their values (arXiv 1612.00796)."""

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import segmentation_loss
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.ewc import EwcSettings
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import FISHER, Memory
from sites.objectives.base import NOTHING_KEPT, Objective
from sites.training_set import TrainingSet

_FISHER_BATCHES = 64  # our choice
_SCALE = 2.0**10  # keeps gradients within the range of fp16; a power of two changes no digits in other types


class EwcObjective(Objective):
    """L = L_seg + (weight / 2) · Σ_i F_i (θ_i − θ*_i)², with θ* the final student of the last stage.

    F is the sum over earlier stages of their diagonal empirical Fisher (the online variant, arXiv 1805.06370, without
    decay). In stage 1, or with weight 0, it is exactly L_seg.
    """

    def __init__(
        self,
        config: Settings,
        teacher: Student | None = None,
        memory: Memory = NOTHING_KEPT,
        adapter: SiteAdapter | None = None,
    ) -> None:
        super().__init__(config, teacher, memory, adapter)
        self._fisher: dict[str, torch.Tensor] = {}
        if teacher is not None and FISHER in memory:
            self._fisher = {name: values.to(teacher.device) for name, values in memory[FISHER].items()}

    def penalties(self, network: str, student: Student) -> dict[str, torch.Tensor]:
        """Return ``consolidation``, the weighted penalty on a network's weights, from stage 2 on."""
        if not self._fisher or self.teacher is None or EwcSettings.of(self.config.method).weight == 0:
            return {}
        anchor = dict(self.teacher.named_parameters())
        moved = [
            (self._fisher[name] * (weight - anchor[name]).square()).sum()
            for name, weight in student.named_parameters()
            if name.startswith(f"{network}.")
        ]
        return {"consolidation": EwcSettings.of(self.config.method).weight / 2 * torch.stack(moved).sum()}

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return the importance of each weight over batches of the training cases, by parameter, float32."""
        config = self.config
        draws = generator(config.seed, "fisher", site, stage)
        noise = generator(config.seed, "fisher-noise", site, stage, device=training_set.device)
        summed = {name: torch.zeros_like(weight) for name, weight in student.named_parameters()}
        for number in range(_FISHER_BATCHES):
            batch = training_set.batch(training_set.draw(config.training.batch_size, draws))
            loss = self.measured(student, Lesson(batch.image, batch.truth, noise), number % 2 == 1)
            student.zero_grad()
            (_SCALE * loss).backward()
            for name, weight in student.named_parameters():
                if weight.grad is not None:
                    summed[name] += self.importance(weight.grad / _SCALE) / _FISHER_BATCHES
        return {FISHER: summed}

    def measured(self, student: Student, lesson: Lesson, perturb: bool) -> torch.Tensor:
        """Return what importance is the gradient of: L_seg."""
        return segmentation_loss(student, lesson, perturb)

    def importance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return a batch's share of importance: the squared gradient, for the diagonal empirical Fisher."""
        return gradient.square()
