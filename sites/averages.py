"""Exponential moving average of a network's weights, on their device."""

from collections.abc import Iterable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Exponential moving average (EMA) of weights over the steps of a round, initialised with the weights.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's warm-up. For any decay, less than a
    millionth of the initial weights is left after 20 steps. An average over all rounds of a stage would keep so much of
    them that a round with few steps would hardly change it. Each round therefore starts again from the last round's
    average, as Adam does.

    Parameters
    ----------
    weights : iterable of Tensor
        Float tensors on one device.
    decay : float
        From 0 to 1. With 0 there is no average, and the weights themselves are used.
    """

    def __init__(self, weights: Iterable[torch.Tensor], decay: float) -> None:
        self._weights = list(weights) if decay else []
        self._decay, self._steps = decay, 0
        self._values = [weight.detach().clone() for weight in self._weights]

    def take(self) -> None:
        """Add the weights after a step to the average, without waiting for the device."""
        if self._weights:
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            get_ema_multi_avg_fn(decay)(self._values, self._weights, None)
            self._steps += 1

    @torch.no_grad()
    def exchange(self) -> None:
        """Swap the weights and the average; a second call undoes the first."""
        for weight, value in zip(self._weights, self._values, strict=True):
            before = weight.clone()
            weight.copy_(value)
            value.copy_(before)
