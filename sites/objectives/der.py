"""DER++ on synthetic scans: masks and a teacher's outputs on the scans are replayed (arXiv 2004.07211)."""

from dataclasses import replace

import torch

from fedserdiff.diffusion.lesson import Lesson
from sites.objectives.image_replay import ImageReplayObjective
from sites.training_set import Batch


class DerObjective(ImageReplayObjective):
    """L = L_seg + λ · (L_seg + BCE(P, P_T) + ‖Ê − Ê_T‖²), with the bracket on synthetic images.

    DER stores a network's outputs on samples when they enter the memory. The teacher is that network, so its outputs
    are computed at the hospital and need not be sent.
    """

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the batch's lesson and, with synthetic images, ``replay`` with the teacher."""
        lessons = super().lessons(batch, noise)
        if (replayed := lessons.get("replay")) is not None:
            lessons["replay"] = replace(replayed, teacher=self.teacher, outputs_alone=True)
        return lessons
