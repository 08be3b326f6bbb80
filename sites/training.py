"""One round inside a hospital: the same optimisation loop for every method."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.draws import Draws
from fedserdiff.diffusion.objective import Lesson, Seen, Terms, coarse_terms, draws_for, refiner_terms
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods import get_method, half_of
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.threads import beside
from fedserdiff.wire import Memory
from sites.hospital import Hospital, TrainingSet
from sites.objectives.base import DISTILLATION, NOTHING_KEPT, Objective
from sites.objectives.combined import CombinedObjective
from sites.sampling import Sampling

Losses = dict[str, torch.Tensor]
"""Weighted terms of the loss by name, scalars."""

Progress = Callable[[int, int, Callable[[], dict[str, float]]], None]
"""Called after each step with the steps done in the stage, their total and what returns the step's loss terms.

Asking for them waits for the device: do so a few times a second.
"""


@dataclass(frozen=True)
class Order:
    """What the coordinator asks of a hospital in one round.

    Attributes
    ----------
    stage, server_round : int
        From 1.
    length : int
        How many times as long as the config has it the stage is.
    teachers : tuple of Student or None
        The teacher of each of the method's parts, in their order.
    memory, adapter
        As `Objective`'s.
    """

    stage: int
    server_round: int
    length: int = 1
    teachers: tuple[Student | None, ...] = (None,)
    memory: Memory = field(default_factory=dict)
    adapter: SiteAdapter | None = None


@dataclass(frozen=True)
class Round:
    """What comes of a round beside the student: the mean of each weighted loss term, and the hospital's adapter."""

    losses: dict[str, float]
    adapter: SiteAdapter | None = None


def run_round(
    student: Student,
    order: Order,
    hospital: Hospital,
    open_site: Callable[[Site], Hospital],
    config: Settings,
    progress: Progress = lambda step, steps, terms: None,
) -> Round:
    """Train `student` in place for one round of the config's method."""
    objective = make_objective(config, order.teachers, order.memory, order.adapter)
    device = next(student.parameters()).device
    training_set = TrainingSet(objective.training_cases(hospital, order.stage, open_site), config, device)
    site = hospital.site.name
    objective.begin(training_set, site, order.stage, order.server_round)
    losses = optimise(student, training_set, objective, order, site, progress)
    return Round(losses, objective.adapter)


def consolidate(
    student: Student,
    stage: int,
    hospital: Hospital,
    config: Settings,
    asked: Collection[str],
    adapter: SiteAdapter | None = None,
) -> Memory:
    """Return the records asked for of a stage that ended with `student`, by name: all of it leaves the hospital.

    They are made of the hospital's own training cases alone.
    """
    training_set = TrainingSet(hospital.training, config, next(student.parameters()).device)
    kept: dict[str, Mapping[str, torch.Tensor]] = {}
    for part in get_method(config.method.name).parts:
        if part.hands_over in asked:
            objective: Objective = half_of(part, part.objective)(config, adapter=adapter)
            kept |= objective.consolidate(student.eval(), training_set, hospital.site.name, stage)
    return kept


def make_objective(
    config: Settings,
    teachers: Sequence[Student | None] = (None,),
    memory: Memory = NOTHING_KEPT,
    adapter: SiteAdapter | None = None,
) -> Objective:
    """Return the hospital's half of the config's method; several, as one, where it combines some."""
    parts = get_method(config.method.name).parts
    halves = [half_of(part, part.objective) for part in parts]
    own = [half(config, teacher, memory, adapter) for half, teacher in zip(halves, teachers, strict=True)]
    return own[0] if len(own) == 1 else CombinedObjective(own, [part.terms for part in parts])


def optimise(
    student: Student,
    training_set: TrainingSet,
    objective: Objective,
    order: Order,
    site: str,
    progress: Progress = lambda step, steps, terms: None,
) -> dict[str, float]:
    """Take the round's share of the stage's steps; return the mean of each weighted loss term.

    Adam starts afresh; its rate follows one cosine over the stage. The two networks share no gradient: while the
    refiner learns of a step, the coarse network is at the next one.
    """
    config = objective.config
    sampling = Sampling(training_set, config, site, order.stage, length=order.length)
    steps = sampling.steps
    first = steps * (order.server_round - 1) // config.training.rounds
    last = steps * order.server_round // config.training.rounds
    device = training_set.device
    batches = generator(config.seed, "batches", site, order.stage, order.server_round)
    noise = generator(config.seed, "noise", site, order.stage, order.server_round, device=device)
    coarse, refiner = (
        _Learner(name, student, objective, config.training.learning_rate) for name in ("coarse", "refiner")
    )
    sums: dict[str, torch.Tensor] = {}
    student.train()
    under_way: tuple[Losses, Future[Losses]] | None = None

    def finish(done: int, of_coarse: Losses, of_refiner: Future[Losses]) -> None:
        """Take in the losses of the last of `done` steps once the refiner has taken it, too."""
        values = _sum_by_name(of_coarse, of_refiner.result())
        sums.update(_sum_by_name(sums, values))
        progress(done, steps, partial(_read, values))

    for step in range(first, last):
        batch = training_set.batch(sampling.items(step, batches))
        if torch.rand(1, generator=batches) < 0.5:  # brains are nearly symmetric
            batch = batch.mirror()
        lessons = objective.lessons(batch, noise)
        losses, seen = coarse_losses(student, objective, lessons)
        of_coarse = coarse.learn(losses, step / steps)
        if under_way is not None:
            finish(step, *under_way)
        under_way = of_coarse, beside(device, refiner.learn_refinement, lessons, seen, step % 2 == 1, step / steps)
    if under_way is not None:
        finish(last, *under_way)
    return {name: value / max(last - first, 1) for name, value in _read(sums).items()}


class _Learner:
    """One of the student's networks in training."""

    def __init__(self, network: str, student: Student, objective: Objective, learning_rate: float) -> None:
        self._student, self._objective = student, objective
        own = {"params": list(student.get_submodule(network).parameters()), "lr": learning_rate}
        self._optimizer = torch.optim.Adam([own, *objective.learns_beside(network, learning_rate)], fused=True)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def learn_refinement(
        self, lessons: Mapping[str, Lesson], seen: Mapping[str, Seen], perturb: bool, done: float
    ) -> Losses:
        """Take a step of the refiner on lessons and what the coarse network saw of each."""
        draws = {name: draws_for(self._student, lesson, perturb) for name, lesson in lessons.items()}
        return self.learn(refiner_losses(self._student, self._objective, lessons, seen, draws), done)

    def learn(self, losses: Losses, done: float) -> Losses:
        """Take a step at the share `done` of the stage; return the terms that it was taken by, in float64.

        Nothing here waits for the device.
        """
        anneal(self._optimizer, self._rates, done)
        self._optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self._optimizer.step()
        return {name: value.detach().double() for name, value in losses.items()}


def coarse_losses(
    student: Student, objective: Objective, lessons: Mapping[str, Lesson]
) -> tuple[Losses, dict[str, Seen]]:
    """Return the coarse network's weighted terms, and what the refiner's need: a function of tensors alone."""
    found = {name: coarse_terms(student, lesson) for name, lesson in lessons.items()}
    losses = weighted_terms(objective, "coarse", student, {name: terms for name, (terms, _) in found.items()})
    return losses, {name: seen for name, (_, seen) in found.items()}


def refiner_losses(
    student: Student,
    objective: Objective,
    lessons: Mapping[str, Lesson],
    seen: Mapping[str, Seen],
    draws: Mapping[str, Draws],
) -> Losses:
    """Return the refiner's weighted terms: a function of tensors alone."""
    terms = {name: refiner_terms(student, lesson, seen[name], draws[name]) for name, lesson in lessons.items()}
    return weighted_terms(objective, "refiner", student, terms)


def weighted_terms(
    objective: Objective, network: str, student: Student, terms_of_lessons: Mapping[str, Terms]
) -> Losses:
    """Return, by name, one network's share of the terms whose sum is minimised."""
    parts: list[Mapping[str, torch.Tensor]] = []
    for lesson, terms in terms_of_lessons.items():
        parts.append({lesson: objective.weight(lesson) * terms.segmentation})
        if terms.distillation is not None:
            parts.append({DISTILLATION: objective.weight(DISTILLATION) * terms.distillation})
    return _sum_by_name(*parts, objective.penalties(network, student))


def _read(losses: Losses) -> dict[str, float]:
    """Return losses as figures, which waits for the device."""
    return {name: float(value) for name, value in losses.items()}


def _sum_by_name(*parts: Mapping[str, torch.Tensor]) -> Losses:
    """Add up what the parts have under each name: of several lessons, or of the two networks."""
    sums: Losses = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def anneal(optimizer: torch.optim.Optimizer, rates: Sequence[float], done: float) -> None:
    """Set the rate of each group of weights that follows one cosine from its of `rates` to 0, at the share `done`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
