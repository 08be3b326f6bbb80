"""Students for tests."""

import torch

from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.settings.experiment import Settings


def lively_student(config: Settings) -> Student:
    """A student whose zero-initialised output layers have moved, so that nothing vanishes by construction."""
    student = new_student(config)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))
    return student.eval()
