"""One round inside a hospital: the same optimisation loop for every method."""

import math
import pkgutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods import get_method
from fedserdiff.seeding import generator
from fedserdiff.wire import Memory
from sites.hospital import Hospital, TrainingSet
from sites.objectives.base import Objective

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each step with the steps done in the stage, their total and the step's loss terms."""


@dataclass(frozen=True)
class Order:
    """What the coordinator asks of a hospital in one round.

    Attributes
    ----------
    stage, server_round : int
        From 1.
    length : int
        The stage's length in stages' worth of optimisation steps.
    teacher, memory
        As `Objective`'s.
    """

    stage: int
    server_round: int
    length: int = 1
    teacher: Student | None = None
    memory: Memory = field(default_factory=dict)


def run_round(
    student: Student,
    order: Order,
    hospital: Hospital,
    open_site: Callable[[Site], Hospital],
    config: ExperimentConfig,
    progress: Progress = lambda step, steps, terms: None,
) -> dict[str, float]:
    """Train `student` in place for one round of the config's method; return the mean of each weighted loss term."""
    objective = _objective(config)(config, order.teacher, order.memory)
    device = next(student.parameters()).device
    training_set = TrainingSet(objective.training_cases(hospital, order.stage, open_site), config, device)
    site = hospital.site.name
    objective.begin(training_set, site, order.stage, order.server_round)
    return _train(student, training_set, objective, config, order, site, progress)


def consolidate(student: Student, stage: int, hospital: Hospital, config: ExperimentConfig) -> Memory:
    """Return what the config's method hands over of a stage that ended with `student`: all of it leaves the hospital.

    It is made of the hospital's own training cases alone.
    """
    training_set = TrainingSet(hospital.training, config, next(student.parameters()).device)
    return _objective(config)(config).consolidate(student.eval(), training_set, hospital.site.name, stage)


def _objective(config: ExperimentConfig) -> type[Objective]:
    objective: type[Objective] = pkgutil.resolve_name(get_method(config.method).objective)
    return objective


def _train(
    student: Student,
    training_set: TrainingSet,
    objective: Objective,
    config: ExperimentConfig,
    order: Order,
    site: str,
    progress: Progress,
) -> dict[str, float]:
    """Take the round's share of the stage's steps. Adam starts afresh; its rate follows one cosine over the stage."""
    steps = stage_steps(config, len(training_set), order.length)
    first = steps * (order.server_round - 1) // config.rounds
    last = steps * order.server_round // config.rounds
    batches = generator(config.seed, "batches", site, order.stage, order.server_round)
    noise = generator(config.seed, "noise", site, order.stage, order.server_round)
    optimizer = torch.optim.Adam(student.parameters(), lr=config.learning_rate, fused=True)
    sums: dict[str, float] = defaultdict(float)
    student.train()
    for step in range(first, last):
        anneal(optimizer, config.learning_rate, step / steps)
        batch = training_set.batch(training_set.draw(config.batch_size, batches))
        if torch.rand(1, generator=batches) < 0.5:  # brains are nearly symmetric
            batch = batch.mirror()
        terms = objective.terms(student, batch, perturb=step % 2 == 1, noise=noise)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            sums[name] += value
        progress(step + 1, steps, values)
    return {name: value / max(last - first, 1) for name, value in sums.items()}


def anneal(optimizer: torch.optim.Optimizer, learning_rate: float, done: float) -> None:
    """Set the rate that follows one cosine from `learning_rate` to 0, at the share `done` of its way."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * (1 + math.cos(math.pi * done)) / 2


def stage_steps(config: ExperimentConfig, items: int, length: int = 1) -> int:
    """Return the optimisation steps of a stage of `length` stages' work on `items` training items.

    Epochs need no `length`: one pass over several sites' items is as long as one pass over each.
    """
    if config.steps_per_stage:
        return length * config.steps_per_stage
    return config.epochs_per_stage * math.ceil(items / config.batch_size)
