"""The result of training a method."""

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
        Number of training batches.
    used_s : float
        Seconds of the budget that they took.
    masks : tuple of str
        The masks of a `Prediction` that count, ``refined`` and ``coarse``, the main one first.
    predict : callable
        Segments a case on the working grid.
    """

    iterations: int
    used_s: float
    masks: tuple[str, ...]
    predict: Callable[[CachedCase], Prediction]


def as_prediction(probabilities: torch.Tensor) -> Prediction:
    """Return region probabilities on the working grid, (regions, X, Y, Z), as a prediction without refinement."""
    return Prediction(probabilities, torch.zeros_like(probabilities))
