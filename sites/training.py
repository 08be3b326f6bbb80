"""One round inside a hospital: the same optimisation loop for every method."""

import math
import pkgutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods import get_method
from fedserdiff.seeding import generator
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
    share_maps : bool
        Whether error maps are to leave with the student.
    teacher, bank
        As `Objective`'s.
    """

    stage: int
    server_round: int
    length: int = 1
    share_maps: bool = False
    teacher: Student | None = None
    bank: torch.Tensor | None = None


def run_round(
    student: Student,
    order: Order,
    hospital: Hospital,
    open_site: Callable[[Site], Hospital],
    config: ExperimentConfig,
    progress: Progress = lambda step, steps, terms: None,
) -> tuple[dict[str, float], torch.Tensor | None]:
    """Train `student` in place for one round of the config's method.

    Returns
    -------
    dict of str to float
        Mean of each weighted loss term.
    Tensor of shape (N, 3, *grid) or None
        The error maps to share, in [−1, 1], where the order asks for them and the method has any.
    """
    make: type[Objective] = pkgutil.resolve_name(get_method(config.method).objective)
    objective = make(config, order.teacher, order.bank)
    device = next(student.parameters()).device
    training_set = TrainingSet(objective.training_cases(hospital, open_site), config, device)
    site = hospital.site.name
    objective.begin(training_set, site, order.stage, order.server_round)
    losses = _train(student, training_set, objective, config, order, site, progress)
    maps = objective.shared_maps(student, training_set, site, order.stage) if order.share_maps else None
    return losses, maps


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
    steps = _stage_steps(config, len(training_set), order.length)
    first = steps * (order.server_round - 1) // config.rounds
    last = steps * order.server_round // config.rounds
    batches = generator(config.seed, "batches", site, order.stage, order.server_round)
    noise = generator(config.seed, "noise", site, order.stage, order.server_round)
    optimizer = torch.optim.Adam(student.parameters(), lr=config.learning_rate, fused=True)
    sums: dict[str, float] = defaultdict(float)
    student.train()
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
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


def _stage_steps(config: ExperimentConfig, items: int, length: int) -> int:
    """Return the optimisation steps of a stage of `length` stages' work on `items` training items.

    Epochs need no `length`: one pass over several sites' items is as long as one pass over each.
    """
    if config.steps_per_stage:
        return length * config.steps_per_stage
    return config.epochs_per_stage * math.ceil(items / config.batch_size)
