"""This project's training by direct calls, for as many steps as fit the minutes."""

import statistics

import numpy as np

from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.training import one_round
from sites.evaluation import predict_case
from sites.hospital import Hospital

from benchmarks.direct_training import train_stage
from benchmarks.peers.budget import Budget, seconds_on
from benchmarks.peers.trained import Trained

_WARM_UP, _TIMED = 5, 20  # steps of a pilot run, which does not count


def train_ours(hospital: Hospital, config: Settings, budget: Budget) -> Trained:
    """Train a student for one stage, with as many steps as fit the minutes by the median step of a pilot run.

    The schedule of a stage, a cosine to 0 from the settings' rate, needs the number of steps in advance.
    """
    steps = max(config.rounds, round(60 * budget.minutes / _step_s(hospital, config, budget)))
    config = _of_steps(config, steps)
    student = _student(config, budget)
    assert budget.left == 1
    train_stage(student, 1, hospital, config)
    return Trained(
        iterations=steps,
        used_s=budget.used_s,
        masks=("refined", "coarse"),
        predict=lambda cached: predict_case(student, cached, config),
    )


def _step_s(hospital: Hospital, config: Settings, budget: Budget) -> float:
    """Return the median seconds of a training step."""
    pilot = _of_steps(config, _WARM_UP + _TIMED).replace(one_round(config.training, config.method))
    ends: list[float] = []
    train_stage(
        _student(pilot, budget), 1, hospital, pilot, lambda step, steps, terms: ends.append(seconds_on(budget.device))
    )
    return statistics.median(np.diff(ends[_WARM_UP - 1 :]))


def _of_steps(config: Settings, steps: int) -> Settings:
    return config.replace({"training.steps_per_stage": steps, "training.epochs_per_stage": 0})


def _student(config: Settings, budget: Budget) -> Student:
    return new_student(config).to(budget.device)
