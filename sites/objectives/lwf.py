"""Learning without Forgetting: distillation of the last stage's outputs on new scans (arXiv 1606.09282)."""

import torch

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.methods.lwf import LwfSettings
from sites.objectives.base import SEGMENTATION, Objective
from sites.training_set import Batch


class LwfObjective(Objective):
    """L = L_seg + λ · (BCE(P, P_T) + ‖Ê − Ê_T‖²), with the teacher's outputs on the hospital's own batch.

    The paper's networks have one head for each task and keep the old heads' outputs. Here all hospitals have the same
    regions and one head, which also learns from the truth. Without a teacher (stage 1), or with λ = 0, it is exactly
    L_seg.
    """

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson, with the teacher if there is one."""
        teacher = self.teacher if LwfSettings.of(self.config.method).lambda_kd > 0 else None
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise, teacher=teacher, outputs_alone=True)}
