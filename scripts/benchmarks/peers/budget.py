"""The minutes of training that every method gets: CPU minutes on a CPU, which others may use, and minutes on a GPU."""

import os
import time

import torch

from fedserdiff.device import finish


def seconds_on(device: torch.device) -> float:
    """Return a clock's seconds: on a CPU those that this process and its ended children computed, else wall time."""
    if device.type == "cpu":
        own = os.times()
        return own.user + own.system + own.children_user + own.children_system
    finish(device)
    return time.perf_counter()


class Budget:
    """A time to train in, which begins when it is first asked.

    Parameters
    ----------
    minutes : float
        More than 0.
    device : torch.device
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.minutes, self.device = minutes, device
        self._begun: float | None = None

    @property
    def used_s(self) -> float:
        """Seconds since it began."""
        now = seconds_on(self.device)
        if self._begun is None:
            self._begun = now
        return now - self._begun

    @property
    def left(self) -> float:
        """Share that is left, from 1 to 0."""
        return max(0.0, 1 - self.used_s / (60 * self.minutes))
