"""Memory aware synapses: EWC with another importance, which needs no truth (arXiv 1711.09601)."""

import torch

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import squared_outputs
from fedserdiff.diffusion.refiner import Student
from sites.objectives.ewc import EwcObjective


class MasObjective(EwcObjective):
    """L = L_seg + (weight / 2) · Σ_i Ω_i (θ_i − θ*_i)², θ* the student that the last stage ended with.

    Ω is the mean absolute gradient of the squared outputs: how much an output changes with a weight. It is summed over
    earlier stages. The paper has a gradient for each sample; here one is of a batch (our choice).
    """

    def measured(self, student: Student, lesson: Lesson, perturb: bool) -> torch.Tensor:
        """Return the squared outputs, P and Ê."""
        return squared_outputs(student, lesson)

    def importance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the absolute gradient."""
        return gradient.abs()
