"""Fine-tuning: L_seg on the hospital's own data, and nothing else."""

import torch

from fedserdiff.diffusion.objective import segmentation_terms
from fedserdiff.diffusion.refiner import Student
from sites.hospital import Batch
from sites.objectives.base import Objective


class FineTuneObjective(Objective):
    """L = L_seg."""

    def terms(self, student: Student, batch: Batch, perturb: bool, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the one term ``segmentation``."""
        parts = segmentation_terms(student, batch.image, batch.truth, None, perturb, noise)
        return {"segmentation": parts.total}
