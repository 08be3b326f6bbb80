"""Segment a whole volume, in 2D slice by slice or in 3D at once."""

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.diffusion.refiner import Prediction, Student

_SLICES_AT_ONCE = 48


def predict_volume(student: Student, image: NDArray[np.float16], steps: int, generator: torch.Generator) -> Prediction:
    """Segment one scan on the working grid.

    Parameters
    ----------
    student : Student
        2D or 3D.
    image : ndarray of shape (4, X, Y, Z)
        z-scored modalities, 0 outside the brain.
    steps : int
        K of the sampler.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Prediction
        Each field of shape (3, X, Y, Z), on the CPU. Slices with no brain are 0.
    """
    device = next(student.parameters()).device
    volume = torch.from_numpy(np.array(image, np.float32))
    was_training = student.training
    student.eval()
    try:
        if len(student.spatial_shape) == 3:
            one = student.predict(volume[None].to(device), steps, generator)
            return Prediction(one.coarse[0].cpu(), one.error_map[0].cpu())
        slices = volume.permute(3, 0, 1, 2)  # (Z, 4, X, Y)
        occupied = torch.nonzero((slices != 0).flatten(1).any(1))[:, 0]
        coarse = torch.zeros(len(slices), 3, *slices.shape[2:])
        error = torch.zeros_like(coarse)
        for chunk in occupied.split(_SLICES_AT_ONCE):
            part = student.predict(slices[chunk].to(device), steps, generator)
            coarse[chunk], error[chunk] = part.coarse.cpu(), part.error_map.cpu()
        return Prediction(coarse.permute(1, 2, 3, 0), error.permute(1, 2, 3, 0))
    finally:
        student.train(was_training)
