"""The optimisation loop of one round inside a hospital: the same for every method."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch

from fedserdiff.config import ExperimentConfig
from fedserdiff.diffusion.refiner import Student
from fedserdiff.seeding import generator
from sites.hospital import TrainingSet
from sites.objectives.base import Objective


def stage_steps(config: ExperimentConfig, items: int) -> int:
    """Return the optimisation steps of a whole stage for a site with `items` training items."""
    if config.steps_per_stage:
        return config.steps_per_stage
    return config.epochs_per_stage * math.ceil(items / config.batch_size)


def train_round(
    student: Student,
    training_set: TrainingSet,
    objective: Objective,
    config: ExperimentConfig,
    steps: int,
    stage: int,
    server_round: int,
    site: str,
    progress: Callable[[int, int, dict[str, float]], None] = lambda step, steps, terms: None,
) -> dict[str, float]:
    """Train `student` in place for its share of the stage's steps and return each loss term's mean.

    Adam starts afresh each round; its rate follows one cosine over the whole stage.

    Parameters
    ----------
    student : Student
        On the device of `training_set`.
    training_set : TrainingSet
        The hospital's own items.
    objective : Objective
        The method's loss.
    config : ExperimentConfig
        Batch size, rate, rounds and seed.
    steps : int
        Optimisation steps of the whole stage.
    stage, server_round : int
        From 1.
    site : str
        Part of the batches' seed: two sites in one round draw differently.
    progress : callable
        Called after each step with the steps done in this stage, their total and the step's loss terms.
    """
    first = steps * (server_round - 1) // config.rounds
    last = steps * server_round // config.rounds
    batches = generator(config.seed, "batches", site, stage, server_round)
    noise = generator(config.seed, "noise", site, stage, server_round)
    optimizer = torch.optim.Adam(student.parameters(), lr=config.learning_rate)
    sums: dict[str, float] = defaultdict(float)
    student.train()
    for step in range(first, last):
        rate = config.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = training_set.batch(training_set.draw(config.batch_size, batches))
        if torch.rand(1, generator=batches) < 0.5:  # brains are nearly symmetric
            batch = batch.mirror()
        terms = objective.terms(student, batch, perturb=step % 2 == 1, noise=noise)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            sums[name] += value
        progress(step + 1, steps, values)
    return {name: value / max(last - first, 1) for name, value in sums.items()}

