"""Targets of a privacy attack, and the models that an attacker trains."""

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
    """A stage as an attacker sees it, and the patients whose membership is tested.

    Attributes
    ----------
    hospital : Hospital
        Its `training` cases are the members; its `test` cases were never trained on. Its `validation` cases are
        neither, since settings may have been chosen by them.
    strangers : sequence of CachedCase
        Further patients of the same scanner who were never trained on; only phantom hospitals have them.
    stage : int
        Number of the stage, from 1.
    before, student : Student
        The student at the start and at the end of the stage.
    adapter : SiteAdapter or None
        The hospital's adapter.
    """

    hospital: Hospital
    strangers: Sequence[CachedCase]
    stage: int
    before: Student
    student: Student
    adapter: SiteAdapter | None

    @property
    def device(self) -> torch.device:
        """Device of the attack, which is that of its models."""
        return self.student.device

    @property
    def others(self) -> list[CachedCase]:
        """All patients who are not members."""
        return [*self.hospital.test, *self.strangers]


@dataclass(frozen=True)
class Shadow:
    """A shadow model, trained by the attacker.

    Attributes
    ----------
    student : Student
    patients : frozenset of str
        Patients it was trained on.
    losses : mapping
        Its losses on all other tested patients, by patient, as in `fedserdiff.privacy.membership.losses`.
    """

    student: Student
    patients: frozenset[str]
    losses: Mapping[str, Mapping[str, Scores]]


class _Plain(Objective):
    """The objective L = L_seg on scans seen through a fixed adapter."""

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
    """Train a copy of `start` with L_seg for `length` stages on these cases; `name` seeds the training."""
    student = Student(config).to(start.device)
    student.load_state_dict(start.state_dict())
    training_set = TrainingSet(cases, config, start.device)
    objective = _Plain(config.replace(one_round(config.training, config.method)), adapter=adapter)
    optimise(student, training_set, objective, Order(1, 1, length), name)
    return student.eval()


def patients_of(cases: Sequence[CachedCase]) -> list[list[CachedCase]]:
    """Group cases by patient."""
    found: dict[str, list[CachedCase]] = {}
    for cached in cases:
        found.setdefault(cached.case.patient, []).append(cached)
    return list(found.values())


def items(cases: Sequence[CachedCase], config: Settings, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and truth of a patient's items with tumour, on a device; of all items if none shows tumour."""
    training_set = TrainingSet(cases, config, device)
    batch = training_set.batch(torch.arange(len(training_set)))
    shows = batch.truth.flatten(1).any(1)
    shows = shows if shows.any() else torch.ones_like(shows)
    return batch.image[shows], batch.truth[shows]


def train_shadows(target: Target, count: int, config: Settings, told: Callable[[int], None]) -> list[Shadow]:
    """Train shadow models of a stage; `told` is called after each.

    A shadow continues from the student at the start of the stage, as an attacker can. It trains with L_seg on as many
    patients as the stage, drawn from members and others. The two shadows of a pair share no patient, so every patient
    is left out by one of them.
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
    """Return the random generator for one purpose of an attack, seeded by the config."""
    return np.random.default_rng(generator(config.seed, "privacy", *purpose).initial_seed())
