"""SER-Diff+: the dual loss with a site adapter that translates every hospital's scans to one common look."""

import math
from dataclasses import replace
from typing import Any

import torch

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.methods.ser_diff_plus import SerDiffPlusSettings
from fedserdiff.seeding import generator
from sites.adapters import learns_adapter
from sites.inversion import invert_contrast
from sites.objectives.base import DISTILLATION, SEGMENTATION
from sites.objectives.ser_diff import SerDiffObjective
from sites.training_set import Batch, TrainingSet


class SerDiffPlusObjective(SerDiffObjective):
    """L = L_seg + δ · λ · L_KD on h(c), the scans translated by the adapter h; δ is the setting `distillation` (our
    choice).

    h is learned when the hospital arrives, by `invert_contrast` on the latest teacher, and continues to learn with the
    student. On h(c) this teacher is right, so the student is distilled from its features and outputs there, sample by
    sample, in the share of each batch drawn from items with tumour.

    The first hospital defines the common look and has no adapter. With λ = 0 nothing is distilled; with
    ``inversion_steps = 0`` no hospital has an adapter. As in SER-Diff, error maps are replayed only if hospitals share
    them.
    """

    @property
    def _own(self) -> SerDiffPlusSettings:
        return SerDiffPlusSettings.of(self.config.method)

    @property
    def _replays(self) -> bool:
        return self.distilled is not None and self.config.shared_error_maps != "none"

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Learn the adapter, unless the hospital already has one or is the first."""
        if self.teacher is not None and self.adapter is None and learns_adapter(self.config, site):  # for every λ
            draws = generator(self.config.seed, "inversion", site, stage)
            self.adapter = invert_contrast(self.teacher, training_set, self.config, draws)
        if self._replays:
            super().begin(training_set, site, stage, server_round)

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the translated batch's lesson, with the teacher's distillation if there is one."""
        plain = {SEGMENTATION: Lesson(batch.image, batch.truth, noise, self.adapter)}
        lesson = (super().lessons(batch, noise) if self._replays else plain)[SEGMENTATION]
        taught = math.ceil(self._own.taught_share * len(batch.image))
        return {SEGMENTATION: replace(lesson, teacher=self.distilled, taught=taught, gamma=self._own.gamma)}

    def weight(self, term: str) -> float:
        """Return δ · λ for distillation, because here samples themselves are distilled, with outputs and features."""
        return self._own.distillation * self._own.lambda_kd if term == DISTILLATION else super().weight(term)

    def learns_beside(self, network: str, learning_rate: float) -> list[dict[str, Any]]:
        """Return the adapter's weights, which learn from the coarse network's terms."""
        if self.adapter is None or network != "coarse":
            return []
        return [{"params": list(self.adapter.parameters()), "lr": self._own.adapter_rate * learning_rate}]
