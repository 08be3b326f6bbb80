"""One round inside a hospital: the same optimisation loop for every method."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.objective import Lesson, Terms, coarse_terms, refiner_terms
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

Value = TypeVar("Value", float, torch.Tensor)

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
    batches = generator(config.seed, "batches", site, order.stage, order.server_round)
    noise = generator(config.seed, "noise", site, order.stage, order.server_round)
    device = next(student.parameters()).device
    coarse, refiner = (
        _Learner(name, student, objective, config.training.learning_rate) for name in ("coarse", "refiner")
    )
    sums: dict[str, float] = defaultdict(float)
    student.train()
    under_way: tuple[dict[str, float], Future[dict[str, float]]] | None = None

    def finish(done: int, of_coarse: dict[str, float], of_refiner: Future[dict[str, float]]) -> None:
        """Take in the losses of the last of `done` steps once the refiner has taken it, too."""
        values = _sum_by_name(of_coarse, of_refiner.result())
        for name, value in values.items():
            sums[name] += value
        progress(done, steps, values)

    for step in range(first, last):
        batch = training_set.batch(sampling.items(step, batches))
        if torch.rand(1, generator=batches) < 0.5:  # brains are nearly symmetric
            batch = batch.mirror()
        lessons = objective.lessons(batch, noise)
        found = {name: coarse_terms(student, lesson) for name, lesson in lessons.items()}
        of_coarse = coarse.learn({name: terms for name, (terms, _) in found.items()}, step / steps)
        if under_way is not None:
            finish(step, *under_way)
        seen = {name: (lesson, found[name][1]) for name, lesson in lessons.items()}
        under_way = of_coarse, beside(device, refiner.learn_refinement, seen, step % 2 == 1, step / steps)
    if under_way is not None:
        finish(last, *under_way)
    return {name: value / max(last - first, 1) for name, value in sums.items()}


class _Learner:
    """One of the student's networks in training."""

    def __init__(self, network: str, student: Student, objective: Objective, learning_rate: float) -> None:
        self._network, self._student, self._objective = network, student, objective
        own = {"params": list(student.get_submodule(network).parameters()), "lr": learning_rate}
        self._optimizer = torch.optim.Adam([own, *objective.learns_beside(network, learning_rate)], fused=True)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def learn_refinement(
        self, seen: Mapping[str, tuple[Lesson, torch.Tensor]], perturb: bool, done: float
    ) -> dict[str, float]:
        """Take a step of the refiner on lessons and the coarse network's P of each."""
        terms = {n: refiner_terms(self._student, lesson, coarse, perturb) for n, (lesson, coarse) in seen.items()}
        return self.learn(terms, done)

    def learn(self, terms_of_lessons: Mapping[str, Terms], done: float) -> dict[str, float]:
        """Take a step at the share `done` of the stage; return the weighted terms of the loss."""
        losses = weighted_terms(self._objective, self._network, self._student, terms_of_lessons)
        anneal(self._optimizer, self._rates, done)
        self._optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self._optimizer.step()
        return {name: float(value.detach()) for name, value in losses.items()}


def weighted_terms(
    objective: Objective, network: str, student: Student, terms_of_lessons: Mapping[str, Terms]
) -> dict[str, torch.Tensor]:
    """Return, by name, one network's share of the terms whose sum is minimised."""
    parts: list[Mapping[str, torch.Tensor]] = []
    for lesson, terms in terms_of_lessons.items():
        parts.append({lesson: objective.weight(lesson) * terms.segmentation})
        if terms.distillation is not None:
            parts.append({DISTILLATION: objective.weight(DISTILLATION) * terms.distillation})
    return _sum_by_name(*parts, objective.penalties(network, student))


def _sum_by_name(*parts: Mapping[str, Value]) -> dict[str, Value]:
    """Add up what the parts have under each name: of several lessons, or of the two networks."""
    sums: dict[str, Value] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def anneal(optimizer: torch.optim.Optimizer, rates: Sequence[float], done: float) -> None:
    """Set the rate of each group of weights that follows one cosine from its of `rates` to 0, at the share `done`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
