"""A student in training scored on validation patients: curves, the best weights, and when a round may end."""

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
"""Takes a step of the stage, from 1, and its figures by the names that `fedserdiff.report.curves` gives them."""

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Weights:
    """The weights of a student and of the adapter in front of it, copies on their device."""

    student: State
    adapter: State | None

    @classmethod
    def of(cls, student: Student, adapter: SiteAdapter | None) -> "Weights":
        """Copy the weights as they are."""
        return cls(_copied(student), None if adapter is None else _copied(adapter))

    def into(self, student: Student, adapter: SiteAdapter | None) -> None:
        """Put them back where they come from."""
        student.load_state_dict(self.student)
        if adapter is not None and self.adapter is not None:
            adapter.load_state_dict(self.adapter)


class Validation:
    """Scores a student every so many steps of a round, and after its last.

    Its best is that of the round: the one before may have been another hospital's, and what it returned was averaged.

    Parameters
    ----------
    cases : sequence of CachedCase
        Validation cases, at least one. No other is read.
    config : Settings
        For `training.validate_every`, `training.keep` and `training.patience`.
    tell : Tell
        Takes the figures of each validation.

    Attributes
    ----------
    last : Weights or None
        After `choose`, the weights that the round's last step left, where others may have been better.
    """

    def __init__(self, cases: Sequence[CachedCase], config: Settings, tell: Tell) -> None:
        self._cases, self._config, self._tell = cases, config, tell
        self._best, self._worse = -math.inf, 0
        self._best_weights: Weights | None = None
        self.last: Weights | None = None
        self._sums: Mapping[str, float] = {}
        self._step, self._since = 0, 0.0

    def begin(self, step: int) -> None:
        """Take note that training begins, or goes on, after so many steps of the stage."""
        self._step, self._since = step, time.monotonic()

    def is_due(self, step: int, last: int) -> bool:
        """Say whether to validate after so many steps, `last` being the round's last."""
        return step % self._config.training.validate_every == 0 or step == last

    def take(
        self, student: Student, adapter: SiteAdapter | None, step: int, sums: Mapping[str, float], rate: float
    ) -> bool:
        """Score the student as it is after a step; say whether the round is to end.

        Parameters
        ----------
        student, adapter
            With the weights that the round would return now.
        step : int
            Steps of the stage that are done.
        sums : mapping
            Of each weighted loss term over the round's steps so far.
        rate : float
            The learning rate of the last one.
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
        """Let the student have the weights that the round returns, given that it has its last."""
        if self._best_weights is not None:
            self.last = Weights.of(student, adapter)
            self._best_weights.into(student, adapter)

    def _compare(self, mean: float, student: Student, adapter: SiteAdapter | None) -> bool:
        """Take in a mean Dice; say whether there were so many without a better one that the round is to end."""
        training = self._config.training
        if mean > self._best:
            self._best, self._worse = mean, 0
            if training.keep == "best":
                self._best_weights = Weights.of(student, adapter)
        else:
            self._worse += 1
        return 0 < training.patience <= self._worse


def save_last(folder: Path, last: Weights) -> None:
    """Keep the weights that a round's last step left in the hospital's folder; those of the round before are replaced.

    They are ``last-student.pt`` and, of a hospital that has an adapter, ``last-adapter.pt``.
    """
    for name, state in (("student", last.student), ("adapter", last.adapter)):
        if state is not None:
            on_host = {key: value.cpu() for key, value in state.items()}
            write_whole(folder / f"last-{name}.pt", partial(torch.save, on_host))


def _copied(module: nn.Module) -> State:
    state: dict[str, Any] = copy.deepcopy(module.state_dict())
    return state
