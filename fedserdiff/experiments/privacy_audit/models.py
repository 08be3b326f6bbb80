"""Whose privacy is attacked, and the models that an attacker trains for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.privacy.membership import losses
from fedserdiff.privacy.scores import Scores
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.training import one_round
from sites.hospital import Hospital
from sites.objectives.base import SEGMENTATION, Objective
from sites.training import Order, optimise
from sites.training_set import Batch, TrainingSet


@dataclass(frozen=True)
class Target:
    """A stage as an attacker sees it, and the patients whose membership is in question.

    Attributes
    ----------
    hospital : Hospital
        Its `training` cases are the members; its `test` cases never were trained on. Its `validation` cases are
        neither: settings may have been chosen by them.
    strangers : sequence of CachedCase
        Further patients of the same scanner that were never trained on; there are some of a phantom hospital.
    stage : int
        From 1.
    before, student : Student
        As the stage began, and as it ended.
    adapter : SiteAdapter or None
        The hospital's.
    """

    hospital: Hospital
    strangers: Sequence[CachedCase]
    stage: int
    before: Student
    student: Student
    adapter: SiteAdapter | None

    @property
    def device(self) -> torch.device:
        """Where the attack computes: where its models are."""
        return self.student.device

    @property
    def others(self) -> list[CachedCase]:
        """Everyone who is no member."""
        return [*self.hospital.test, *self.strangers]


@dataclass(frozen=True)
class Shadow:
    """A model as the attacker trains it.

    Attributes
    ----------
    student : Student
    patients : frozenset of str
        Whom it was trained on.
    losses : mapping
        Its losses on everyone else who is in question, by patient, as `fedserdiff.privacy.membership.losses`.
    """

    student: Student
    patients: frozenset[str]
    losses: Mapping[str, Mapping[str, Scores]]


class _Plain(Objective):
    """L = L_seg on scans as an adapter shows them, which does not learn."""

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        return {SEGMENTATION: Lesson(self.seen(batch.image).detach(), batch.truth, noise)}


def train(
    start: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    name: str,
    adapter: SiteAdapter | None = None,
    length: int = 1,
) -> Student:
    """Return a student that goes on from `start` for `length` stages on these cases, by L_seg; `name` seeds it."""
    student = Student(config).to(start.device)
    student.load_state_dict(start.state_dict())
    training_set = TrainingSet(cases, config, start.device)
    objective = _Plain(config.replace(one_round(config.training, config.method)), adapter=adapter)
    optimise(student, training_set, objective, Order(1, 1, length), name)
    return student.eval()


def patients_of(cases: Sequence[CachedCase]) -> list[list[CachedCase]]:
    """Return cases by their patient."""
    found: dict[str, list[CachedCase]] = {}
    for cached in cases:
        found.setdefault(cached.case.patient, []).append(cached)
    return list(found.values())


def items(cases: Sequence[CachedCase], config: Settings, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and truth of a patient's items that show tumour, on a device; of all its items where none does."""
    training_set = TrainingSet(cases, config, device)
    batch = training_set.batch(torch.arange(len(training_set)))
    shows = batch.truth.flatten(1).any(1)
    shows = shows if shows.any() else torch.ones_like(shows)
    return batch.image[shows], batch.truth[shows]


def train_shadows(target: Target, count: int, config: Settings, told: Callable[[int], None]) -> list[Shadow]:
    """Return shadow models of a stage; `told` hears of each.

    A shadow goes on from the student that the stage began with, as the attacker can, on as many patients, drawn from
    members and others alike, by L_seg alone. Of two in a row none shares a patient: someone leaves out each.
    """
    rng = rng_for(config, "shadows", target.stage)
    pool = patients_of([*target.hospital.training, *target.others])
    size = min(len(patients_of(target.hospital.training)), len(pool) // 2)
    shadows: list[Shadow] = []
    while len(shadows) < count:
        order = rng.permutation(len(pool))
        for drawn in (order[:size], order[size : 2 * size])[: count - len(shadows)]:
            cases = [cached for number in drawn for cached in pool[number]]
            student = train(target.before, cases, config, f"shadow-{target.stage}-{len(shadows)}", target.adapter)
            left_out = {number: pool[number] for number in set(range(len(pool))) - {int(n) for n in drawn}}
            found = {
                c[0].case.patient: losses(student, *items(c, config, target.device), target.adapter)
                for c in left_out.values()
            }
            shadows.append(Shadow(student, frozenset(cached.case.patient for cached in cases), found))
            told(len(shadows))
    return shadows


def rng_for(config: Settings, *purpose: str | int) -> np.random.Generator:
    """Return the generator of an attack's draws for one purpose, from the config's seed."""
    return np.random.default_rng(generator(config.seed, "privacy", *purpose).initial_seed())
