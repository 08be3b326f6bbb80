"""The training time that every method gets: CPU minutes on a CPU, which may be shared, and wall time on a GPU."""

import os
import time

import torch

from fedserdiff.device import finish


def seconds_on(device: torch.device) -> float:
    """Return CPU seconds of this process and its ended children on a CPU, wall time in seconds on a GPU."""
    if device.type == "cpu":
        own = os.times()
        return own.user + own.system + own.children_user + own.children_system
    finish(device)
    return time.perf_counter()


class Budget:
    """A training time budget, which starts on first use.

    Parameters
    ----------
    minutes : float
        Length in minutes, above 0.
    device : torch.device
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.minutes, self.device = minutes, device
        self._begun: float | None = None

    @property
    def used_s(self) -> float:
        """Seconds used since the start."""
        now = seconds_on(self.device)
        if self._begun is None:
            self._begun = now
        return now - self._begun

    @property
    def left(self) -> float:
        """Remaining share, from 1 to 0."""
        return max(0.0, 1 - self.used_s / (60 * self.minutes))
