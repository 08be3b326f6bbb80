"""Validation during training: curves, the best weights, and early stopping of a round."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.files import write_whole
from fedserdiff.report.curves import RATE, SPEED
from fedserdiff.settings.experiment import Settings
from sites.evaluation import dice_of_prediction, of_each_case

Tell = Callable[[int, Mapping[str, float]], None]
"""Callback with a step of the stage, from 1, and its values by the names of `fedserdiff.report.curves`."""

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """Copies of the weights of a student and its adapter, on their device."""

    student: State
    adapter: State | None

    @classmethod
    def of(cls, student: Student, adapter: SiteAdapter | None) -> "Weights":
        """Copy the current weights."""
        return cls(_copied(student), None if adapter is None else _copied(adapter))

    def into(self, student: Student, adapter: SiteAdapter | None) -> None:
        """Load the weights back into a student and its adapter."""
        student.load_state_dict(self.student)
        if adapter is not None and self.adapter is not None:
            adapter.load_state_dict(self.adapter)


class Validation:
    """Validation of a student every few steps of a round, and after its last step.

    The best result is that of this round only: the round before may have been another hospital's, and its result was
    aggregated.

    Parameters
    ----------
    cases : sequence of CachedCase
        Validation cases, at least one. No other cases are read.
    config : Settings
        Settings with `training.validate_every`, `training.keep` and `training.patience`.
    tell : Tell
        Callback for the values of each validation.

    Attributes
    ----------
    last : Weights or None
        After `choose`, the weights after the round's last step, if other weights may have been better.
    """

    def __init__(self, cases: Sequence[CachedCase], config: Settings, tell: Tell) -> None:
        self._cases, self._config, self._tell = cases, config, tell
        self._best, self._worse = -math.inf, 0
        self._best_weights: Weights | None = None
        self.last: Weights | None = None
        self._sums: Mapping[str, float] = {}
        self._step, self._since = 0, 0.0

    def begin(self, step: int) -> None:
        """Record that training starts or continues after this many steps of the stage."""
        self._step, self._since = step, time.monotonic()

    def is_due(self, step: int, last: int) -> bool:
        """Return whether to validate after `step` steps, where `last` is the round's last step."""
        return step % self._config.training.validate_every == 0 or step == last

    def take(
        self, student: Student, adapter: SiteAdapter | None, step: int, sums: Mapping[str, float], rate: float
    ) -> bool:
        """Score the student after a step; return whether the round should stop.

        Parameters
        ----------
        student, adapter
            Student and adapter with the weights that the round would return now.
        step : int
            Number of steps done in the stage.
        sums : mapping
            Sum of each weighted loss term over the round's steps so far.
        rate : float
            The learning rate of the last step.
        """
        steps, seconds = step - self._step, time.monotonic() - self._since
        losses = {f"loss.{name}": (value - self._sums.get(name, 0.0)) / steps for name, value in sums.items()}
        scores = of_each_case(student, self._cases, self._config, adapter, dice_of_prediction)
        student.train()
        means = {name: float(np.mean([row[name] for row in scores])) for name in scores[0]}
        self._tell(step, {**losses, RATE: rate, SPEED: steps / max(seconds, 1e-9), **means})
        self._sums = sums
        self.begin(step)
        return self._compare(mean_over_regions(means, "refined", "dice"), student, adapter)

    def choose(self, student: Student, adapter: SiteAdapter | None) -> None:
        """Give the student, which has its last weights, the weights that the round returns."""
        if self._best_weights is not None:
            self.last = Weights.of(student, adapter)
            self._best_weights.into(student, adapter)

    def _compare(self, mean: float, student: Student, adapter: SiteAdapter | None) -> bool:
        """Record a mean Dice; return whether the patience is used up, so that the round should stop."""
        training = self._config.training
        if mean > self._best:
            self._best, self._worse = mean, 0
            if training.keep == "best":
                self._best_weights = Weights.of(student, adapter)
        else:
            self._worse += 1
        return 0 < training.patience <= self._worse


def save_last(folder: Path, last: Weights) -> None:
    """Save the weights after a round's last step in the hospital's folder, replacing those of the round before.

    The files are ``last-student.pt`` and, if the hospital has an adapter, ``last-adapter.pt``.
    """
    for name, state in (("student", last.student), ("adapter", last.adapter)):
        if state is not None:
            on_host = {key: value.cpu() for key, value in state.items()}
            write_whole(folder / f"last-{name}.pt", partial(torch.save, on_host))


def _copied(module: nn.Module) -> State:
    state: dict[str, Any] = copy.deepcopy(module.state_dict())
    return state
