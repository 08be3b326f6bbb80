"""One round of training inside a hospital: the same optimisation loop for every method."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods import get_method, half_of
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.wire import Memory
from sites.augmenter import Augmenter
from sites.hospital import Hospital
from sites.objectives.base import NOTHING_KEPT, Objective
from sites.objectives.combined import CombinedObjective
from sites.sampling import Sampling
from sites.step import Learners, Losses, rate_at, sum_by_name
from sites.training_set import TrainingSet, ahead
from sites.validation import Tell, Validation, Weights

Progress = Callable[[int, int, Callable[[], dict[str, float]]], None]
"""Callback after each step: steps done in the stage, their total, and a function that returns the step's loss terms.

That function waits for the device, so call it only a few times a second.
"""


@dataclass(frozen=True)
class Order:
    """The coordinator's order to a hospital for one round.

    Attributes
    ----------
    stage, server_round : int
        Stage and round, from 1.
    length : int
        Length of the stage as a multiple of the config's.
    teachers : tuple of Student or None
        The teacher of each part of the method, in order.
    memory, adapter, own
        As in `Objective`.
    """

    stage: int
    server_round: int
    length: int = 1
    teachers: tuple[Student | None, ...] = (None,)
    memory: Memory = field(default_factory=dict)
    adapter: SiteAdapter | None = None
    own: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """The result of a round in addition to the student: the mean of each weighted loss term, and the hospital's
    adapter.

    `last` has the weights after the last step if the student has its best weights instead. `retained` is what the
    stage's last round reports on earlier hospitals. `handed_over` leaves with the weight change; `own` never leaves.
    """

    losses: dict[str, float]
    adapter: SiteAdapter | None = None
    last: Weights | None = None
    retained: Mapping[str, int] = field(default_factory=dict)
    handed_over: Memory = field(default_factory=dict)
    own: Mapping[str, torch.Tensor] = field(default_factory=dict)


def run_round(
    student: Student,
    order: Order,
    hospital: Hospital,
    open_site: Callable[[Site], Hospital],
    config: Settings,
    progress: Progress = lambda step, steps, terms: None,
    tell: Tell = lambda step, figures: None,
) -> Round:
    """Train `student` in place for one round of the config's method; `tell` receives the values of its validations."""
    objective = make_objective(config, order.teachers, order.memory, order.adapter)
    objective.own = dict(order.own)
    objective.received(student)
    training_set = TrainingSet(objective.training_cases(hospital, order.stage, open_site), config, student.device)
    site = hospital.site.name
    objective.begin(training_set, site, order.stage, order.server_round)
    validation = None
    if config.training.validate_every:
        validation = Validation(objective.validation_cases(hospital, open_site), config, tell)
    losses = optimise(student, training_set, objective, order, site, progress, validation)
    last = None if validation is None else validation.last
    ends = order.server_round == config.rounds
    retained = objective.retained(student, hospital, order.stage) if ends else {}
    handed_over = objective.hand_over()
    return Round(losses, objective.adapter, last, retained, handed_over, objective.own)


def consolidate(
    student: Student,
    stage: int,
    hospital: Hospital,
    config: Settings,
    asked: Collection[str],
    adapter: SiteAdapter | None = None,
    remark: Callable[[str], None] = lambda text: None,
) -> Memory:
    """Return the requested records of a stage that ended with `student`, by name; all of them leave the hospital.

    They are made only from the hospital's own training cases. `remark` receives remarks for the hospital's log.
    """
    training_set = TrainingSet(hospital.training, config, student.device)
    kept: dict[str, Mapping[str, torch.Tensor]] = {}
    for part in get_method(config.method.name).parts:
        if part.hands_over in asked:
            objective: Objective = half_of(part, part.objective)(config, adapter=adapter)
            kept |= objective.consolidate(student.eval(), training_set, hospital.site.name, stage)
            for text in objective.remarks:
                remark(text)
    return kept


def make_objective(
    config: Settings,
    teachers: Sequence[Student | None] = (None,),
    memory: Memory = NOTHING_KEPT,
    adapter: SiteAdapter | None = None,
) -> Objective:
    """Create the hospital's half of the config's method; for a combination of methods, combine their halves."""
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
    validation: Validation | None = None,
) -> dict[str, float]:
    """Take the round's share of the stage's steps; return the mean of each weighted loss term.

    Adam starts again each round; its learning rate follows one schedule over the stage. The student ends with the
    weights that the round returns: the average, the last, or the best by `validation`, which may also stop the round
    early.
    """
    config = objective.config
    sampling = Sampling(training_set, config, site, order.stage, length=order.length)
    steps = sampling.steps
    first = steps * (order.server_round - 1) // config.rounds
    last = steps * order.server_round // config.rounds
    batches = generator(config.seed, "batches", site, order.stage, order.server_round)
    noise = generator(config.seed, "noise", site, order.stage, order.server_round, device=training_set.device)
    learners = Learners(student.train(), objective, training_set.device)
    sums: Losses = {}
    under_way: Callable[[], Losses] | None = None

    def finish(done: int, losses: Losses) -> None:
        """Add the losses of the last of `done` steps."""
        sums.update(sum_by_name(sums, losses))
        progress(done, steps, partial(_read, losses))

    augmented = Augmenter(config, training_set.device, site, order.stage, order.server_round)
    mirroring = config.augmentation.mirroring
    wanted = (
        (sampling.items(step, batches), bool(torch.rand(1, generator=batches) < mirroring))
        for step in range(first, last)
    )
    if validation is not None:
        validation.begin(first)
    done = first
    with closing(ahead(training_set, wanted, augmented.margin)) as made:
        for step, batch in enumerate(made, first):
            share = rate_at(step, steps, config.training.warmup)
            taken = learners.take(objective.lessons(augmented(batch), noise), step, share)
            if under_way is not None:
                finish(step, under_way())
            under_way, done = taken, step + 1
            if validation is not None and validation.is_due(done, last):
                finish(done, under_way())
                under_way = None
                with learners.as_scored():
                    rate = share * config.training.learning_rate
                    ends = validation.take(student, objective.adapter, done, _read(sums), rate)
                if ends:
                    break
    if under_way is not None:
        finish(done, under_way())
    learners.finish()
    if validation is not None:
        validation.choose(student, objective.adapter)
    return {name: value / max(done - first, 1) for name, value in _read(sums).items()}


def _read(losses: Losses) -> dict[str, float]:
    """Return losses as floats; this waits for the device."""
    return {name: float(value) for name, value in losses.items()}
