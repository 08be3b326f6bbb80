"""What `audit.py privacy` asks of a hospital's stage: error maps, membership, canaries, and each attack's controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.config import ExperimentConfig
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.objective import Lesson
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.evaluation.bootstrap import Interval
from fedserdiff.privacy.canaries import plant
from fedserdiff.privacy.maps import DistanceTest, contours, distance_test, nearness
from fedserdiff.privacy.membership import LOSSES, calibrated, losses
from fedserdiff.privacy.scores import Scores, auc, estimable, over_patients, tpr_at
from fedserdiff.seeding import generator
from fedserdiff.wire import ERROR_MAPS, from_levels
from sites.hospital import Batch, Hospital, TrainingSet
from sites.objectives.base import SEGMENTATION, Objective
from sites.training import Order, consolidate, optimise

KINDS = ("null", "mri")
"""Error maps that a hospital may share."""

FPRS = (0.01, 0.001)

CANARIES, CALIBRATED, LAST = "canaries", ", calibrated", "last student"
COPIES, UNTRAINED = "copies", "maps of an untrained student"
MEMORISER, NEVER_SEEN = "a student that memorises", "patients never seen"
"""Channels of the controls: of error maps and canaries, and of weights; the first has to leak, the second must not."""

_CANARIES, _UNPLANTED = 8, 64  # shapes planted at most, and never
_MEMORISED = 3  # patients of the model that memorises


@dataclass(frozen=True)
class Target:
    """A stage as an attacker sees it, and the patients whose membership is in question.

    Attributes
    ----------
    hospital : Hospital
        Its `training` cases are the members; its `test` cases never were trained on.
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
    def others(self) -> list[CachedCase]:
        """Everyone who is no member."""
        return [*self.hospital.test, *self.strangers]


@dataclass(frozen=True)
class Finding:
    """What one attack found: how well it tells who was trained on, 0.5 being guessing.

    Attributes
    ----------
    channel, attack : str
        What the attacker has, and what it does.
    stage : int
        Of the student that is attacked.
    site : str
        Whose patients it is about.
    auc : Interval
        With 95 % over patients (canaries: over shapes).
    tpr : mapping of float to Interval or None
        By FPR of `FPRS`; None where there are too few others to tell.
    distance : DistanceTest or None
        For error maps.
    members, others : int
        Patients, or shapes.
    """

    channel: str
    attack: str
    stage: int
    site: str
    auc: Interval
    members: int
    others: int
    tpr: Mapping[float, Interval | None]
    distance: DistanceTest | None = None


class _Plain(Objective):
    """L = L_seg on scans as an adapter shows them, which does not learn."""

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        return {SEGMENTATION: Lesson(self.seen(batch.image).detach(), batch.truth, noise)}


def train(
    start: Student, cases: Sequence[CachedCase], config: ExperimentConfig, name: str, adapter: SiteAdapter | None = None
) -> Student:
    """Return a student that goes on from `start` for one stage on these cases, by L_seg alone; `name` seeds it."""
    student = Student(config)
    student.load_state_dict(start.state_dict())
    training_set = TrainingSet(cases, config, torch.device("cpu"))
    optimise(student, training_set, _Plain(config.replace(rounds=1), adapter=adapter), Order(1, 1), name)
    return student.eval()


def patients_of(cases: Sequence[CachedCase]) -> list[list[CachedCase]]:
    """Return cases by their patient."""
    found: dict[str, list[CachedCase]] = {}
    for cached in cases:
        found.setdefault(cached.case.patient, []).append(cached)
    return list(found.values())


def items(cases: Sequence[CachedCase], config: ExperimentConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and truth of a patient's items that show tumour; of all its items where none does."""
    training_set = TrainingSet(cases, config, torch.device("cpu"))
    batch = training_set.batch(torch.arange(len(training_set)))
    shows = batch.truth.flatten(1).any(1)
    shows = shows if shows.any() else torch.ones_like(shows)
    return batch.image[shows], batch.truth[shows]


# Error maps


def attack_maps(target: Target, config: ExperimentConfig) -> Iterator[Finding]:
    """Hold the maps that the stage's student makes, of each kind, to training patients and to others."""
    for kind in KINDS:
        maps = _shared(target.student, target.hospital, kind, config, target.stage, target.adapter)
        yield from _compare_maps(maps, f"{kind} error maps", target, config)


def _compare_maps(maps: torch.Tensor, channel: str, target: Target, config: ExperimentConfig) -> Iterator[Finding]:
    """Compare maps with contours and true errors of training patients and of others."""

    def errors(cases: Sequence[CachedCase]) -> torch.Tensor:
        image, truth = items(cases, config)
        return truth - target.student.segment(image if target.adapter is None else target.adapter(image).detach())

    def outlines(cases: Sequence[CachedCase]) -> torch.Tensor:
        return contours(items(cases, config)[1])

    members, others = patients_of(target.hospital.training), patients_of(target.others)
    for attack, shared, look in (
        ("nearest contour", maps.abs(), outlines),
        ("nearest error map", maps, errors),
    ):
        to_members, to_others = (nearness(shared, map(look, group)) for group in (members, others))
        rng = _rng(config, channel, attack, target.stage)
        yield _finding(
            channel, attack, target, list(to_members.max(0)[:, None]), list(to_others.max(0)[:, None]), rng,
            distance_test(to_members, to_others, rng),
        )  # fmt: skip


# Weights


def attack_weights(
    target: Target, final: Student | None, shadows: int, config: ExperimentConfig, told: Callable[[int], None]
) -> Iterator[Finding]:
    """Ask a stage's student, and the last one, who was trained on: by its losses, alone and beside shadow models'.

    A shadow goes on from the student that the stage began with, as the attacker can, on as many patients drawn from
    members and others alike, by L_seg alone. `told` hears of each that is trained.
    """
    everyone = [patients_of(group) for group in (target.hospital.training, target.others)]
    pool = [patient for group in everyone for patient in group]
    members = len(everyone[0])
    size = min(members, len(pool) // 2)
    own = _losses(target.student, pool, target.adapter, config)
    of_shadows: list[list[dict[str, Scores]]] = []
    rng = _rng(config, "shadows", target.stage)
    for number, seen in enumerate(_draws(len(pool), size, shadows, rng)):
        cases = [cached for patient in seen for cached in pool[patient]]
        shadow = train(target.before, cases, config, f"shadow-{target.stage}-{number}", target.adapter)
        found = _losses(shadow, pool, target.adapter, config)
        for patient in seen:
            found[patient] = {name: np.full_like(values, np.nan) for name, values in found[patient].items()}
        of_shadows.append(found)
        told(number + 1)
    attacked = [(f"student of stage {target.stage}", own)]
    if final is not None:
        attacked.append((LAST, _losses(final, pool, target.adapter, config)))
    for channel, found in attacked:
        for name in LOSSES:
            plain = [-loss[name] for loss in found]
            versus = [
                calibrated(loss[name], [shadow[patient][name] for shadow in of_shadows])
                for patient, loss in enumerate(found)
            ]
            for attack, scores in ((f"{name} loss", plain), (f"{name} loss{CALIBRATED}", versus)):
                rng = _rng(config, channel, attack, target.stage)
                yield _finding(channel, attack, target, scores[:members], scores[members:], rng)


def _losses(
    student: Student, patients: Sequence[Sequence[CachedCase]], adapter: SiteAdapter | None, config: ExperimentConfig
) -> list[dict[str, Scores]]:
    return [losses(student, *items(cases, config), adapter) for cases in patients]


def _draws(patients: int, size: int, shadows: int, rng: np.random.Generator) -> list[list[int]]:
    """Draw whom each shadow is trained on; of two in a row none has both: someone leaves out each."""
    drawn: list[list[int]] = []
    while len(drawn) < shadows:
        order = [int(patient) for patient in rng.permutation(patients)]
        drawn += [order[:size], order[size : 2 * size]]
    return drawn[:shadows]


# Canaries


def attack_canaries(target: Target, config: ExperimentConfig) -> Iterator[Finding]:
    """Plant shapes in the first hospital's training patients, train a stage, and look for them in what it shares."""
    rng = _rng(config, "canaries")
    training = list(target.hospital.training)
    chosen = rng.permutation(len(training))[: min(_CANARIES, max(1, len(training) // 2))]
    shapes = []
    for number in chosen:
        training[number], alone = plant(training[number], rng)
        shapes.append(_outline(alone, config))
    for number in rng.integers(len(target.hospital.training), size=_UNPLANTED):
        shapes.append(_outline(plant(target.hospital.training[number], rng)[1], config))
    student = train(target.before, training, config, "canaries")
    with_canaries = replace(target.hospital, training=tuple(training))
    planted = len(chosen)

    def recovery(channel: str, maps: torch.Tensor) -> Finding:
        near = nearness(maps.abs(), shapes).max(0)[:, None]
        return _finding(channel, CANARIES, target, list(near[:planted]), list(near[planted:]), rng)

    for kind in KINDS:
        yield recovery(f"{kind} error maps", _shared(student, with_canaries, kind, config))
    yield recovery(UNTRAINED, _shared(new_student(config), with_canaries, "null", config))
    yield recovery(COPIES, torch.cat([shape[:1] for shape in shapes[:planted]]))


def _shared(
    student: Student,
    hospital: Hospital,
    kind: str,
    config: ExperimentConfig,
    stage: int = 1,
    adapter: SiteAdapter | None = None,
) -> torch.Tensor:
    """Return the maps of a kind that a hospital would share of a stage that ended with `student`."""
    kept = consolidate(student, stage, hospital, config.replace(method="ser-diff", shared_error_maps=kind), adapter)
    return from_levels(kept[ERROR_MAPS]["maps"])


def _outline(alone: NDArray[np.uint8], config: ExperimentConfig) -> torch.Tensor:
    masks = torch.from_numpy(alone).float()
    if config.spatial_dims == 3:
        return contours(masks[None])
    slices = masks.movedim(-1, 0)
    return contours(slices[slices.flatten(1).any(1)])


# Controls: what an attack has to find, and what it has not to


def control_maps(target: Target, config: ExperimentConfig) -> Iterator[Finding]:
    """Attack a bank that holds copies of training patients' errors, and the maps of a student that never trained."""
    copies = []
    for cases in patients_of(target.hospital.training):
        image, truth = items(cases, config)
        copies.append(truth[:1] - target.student.segment(image[:1]))
    yield from _compare_maps(torch.cat(copies), COPIES, target, config)
    untrained = _shared(new_student(config), target.hospital, "null", config)
    yield from _compare_maps(untrained, UNTRAINED, target, config)


def control_weights(target: Target, config: ExperimentConfig) -> Iterator[Finding]:
    """Attack a model that memorises a few patients, and take patients for members whom no model has seen."""
    few = patients_of(target.hospital.training)[:_MEMORISED]
    memoriser = train(target.before, [cached for cases in few for cached in cases], config, "memoriser")
    others = patients_of(target.others)
    for channel, student, groups in (
        (MEMORISER, memoriser, (few, others)),
        (NEVER_SEEN, target.student, (others[::2], others[1::2])),
    ):
        members, rest = ([losses(student, *items(cases, config), None) for cases in group] for group in groups)
        for name in LOSSES if members and rest else ():
            scores, other = ([-loss[name] for loss in group] for group in (members, rest))
            yield _finding(channel, f"{name} loss", target, scores, other, _rng(config, channel, name))


def _finding(
    channel: str,
    attack: str,
    target: Target,
    members: Sequence[Scores],
    others: Sequence[Scores],
    rng: np.random.Generator,
    distance: DistanceTest | None = None,
) -> Finding:
    count = sum(map(len, others))
    tprs = {fpr: over_patients(tpr_at(fpr), members, others, rng) if estimable(fpr, count) else None for fpr in FPRS}
    whole = over_patients(auc, members, others, rng)
    return Finding(
        channel, attack, target.stage, target.hospital.site.name, whole, len(members), len(others), tprs, distance
    )


def _rng(config: ExperimentConfig, *purpose: str | int) -> np.random.Generator:
    return np.random.default_rng(generator(config.seed, "privacy", *purpose).initial_seed())
