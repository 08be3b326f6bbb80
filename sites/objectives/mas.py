"""Memory aware synapses: EWC with an importance that needs no labels (arXiv 1711.09601)."""

import torch

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import squared_outputs
from fedserdiff.diffusion.refiner import Student
from sites.objectives.ewc import EwcObjective


class MasObjective(EwcObjective):
    """L = L_seg + (weight / 2) · Σ_i Ω_i (θ_i − θ*_i)², with θ* the final student of the last stage.

    Ω is the mean absolute gradient of the squared outputs: how much an output changes with a weight. It is summed over
    earlier stages. The paper uses one gradient for each sample; here there is one for each batch (our choice).
    """

    def measured(self, student: Student, lesson: Lesson, perturb: bool) -> torch.Tensor:
        """Return the squared outputs, P and Ê."""
        return squared_outputs(student, lesson)

    def importance(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the absolute gradient."""
        return gradient.abs()
