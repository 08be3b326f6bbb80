"""What a method returns when its minutes are over."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Prediction


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes
    ----------
    iterations : int
        Batches that it learnt from.
    used_s : float
        Seconds of the budget that they took.
    masks : tuple of str
        Which of a `Prediction`'s masks count, ``refined`` and ``coarse``, the method's own first.
    predict : callable
        Segments a case on the working grid.
    """

    iterations: int
    used_s: float
    masks: tuple[str, ...]
    predict: Callable[[CachedCase], Prediction]


def as_prediction(probabilities: torch.Tensor) -> Prediction:
    """Return region probabilities on the working grid, (regions, X, Y, Z), as a prediction with nothing to refine."""
    return Prediction(probabilities, torch.zeros_like(probabilities))
