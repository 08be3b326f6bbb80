"""The exponential moving average of a network's weights, on their device."""

from collections.abc import Iterable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The exponential moving average (EMA) of weights over the steps of a round, which begins as they are.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), TensorFlow's warm-up of it: of the weights that the round
    begins with, less than a millionth is left after 20 steps, however long a memory the decay asks for. An average over
    all rounds of a stage would keep so much of them that a round of few steps hardly moved: each begins again with what
    the last one's average became, as does Adam.

    Parameters
    ----------
    weights : iterable of Tensor
        All float, on one device.
    decay : float
        From 0 to 1. With 0 there is no average: it is the weights themselves.
    """

    def __init__(self, weights: Iterable[torch.Tensor], decay: float) -> None:
        self._weights = list(weights) if decay else []
        self._decay, self._steps = decay, 0
        self._values = [weight.detach().clone() for weight in self._weights]

    def take(self) -> None:
        """Take in the weights as a step left them; nothing here waits for a device."""
        if self._weights:
            decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
            get_ema_multi_avg_fn(decay)(self._values, self._weights, None)
            self._steps += 1

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the average in the weights' place, and these in its; doing it again undoes it."""
        for weight, value in zip(self._weights, self._values, strict=True):
            before = weight.clone()
            weight.copy_(value)
            value.copy_(before)
