"""Attacks of ``fedserdiff audit privacy`` on a stage: error maps, membership, canaries, and their controls."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.evaluation.bootstrap import Interval
from fedserdiff.experiments.privacy_audit.models import Shadow, Target, items, patients_of, rng_for, train
from fedserdiff.privacy.canaries import plant
from fedserdiff.privacy.maps import DistanceTest, contours, distance_test, nearness
from fedserdiff.privacy.membership import LOSSES, calibrated, losses
from fedserdiff.privacy.scores import Scores, auc, tpr_at
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import ERROR_MAPS, SYNTHETIC_IMAGES, from_levels
from sites.hospital import Hospital
from sites.training import consolidate

KINDS = ("null", "mri")
"""Kinds of error maps that a hospital may share."""

FPRS = (0.01, 0.001)

CANARIES, CALIBRATED, CONTOUR, INVERSION = "canaries", ", calibrated", "nearest contour", "update inversion"
IMAGES, LAST, GREEDY = "synthetic images", "last student", "student asked to train on"
COPIES, NEVER = "copies", "maps of a student that never saw them"
MEMORISER, NEVER_SEEN = "a student that memorises", "patients never seen"
DENSE, OTHERS = "gradient of a dense network", "gradient of another slice"
"""Channels of the controls for maps, weights and updates: the first of each pair must leak, the second must not."""

_CANARIES, _UNPLANTED = 8, 64  # largest number of planted shapes, and number of shapes never planted
_MEMORISED, _AS_LONG = 2, 4  # patients of the memorising model, and its length in stages


@dataclass(frozen=True)
class Resemblance:
    """Mean SSIM of true slices with their reconstructions, and with the mean of other patients' slices."""

    found: Interval
    mean_slice: Interval


@dataclass(frozen=True)
class Finding:
    """The result of one attack: how well it tells members from others, where 0.5 is guessing.

    Attributes
    ----------
    channel, attack : str
        What the attacker has, and what it does with it.
    stage : int
        Stage of the attacked student.
    site : str
        Hospital of the patients.
    auc : Interval
        AUC with its 95 % interval over patients (canaries: over shapes).
    tpr : mapping of float to Interval or None
        TPR at each FPR of `FPRS`; None if there are too few others.
    distance : DistanceTest or None
        Distance test, for error maps.
    resemblance : Resemblance or None
        For update inversion, whose AUC says how well a reconstruction tells its slice from other patients' slices.
    members, others : int
        Number of patients, or shapes, in each group.
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
    resemblance: Resemblance | None = None


# Maps, images and other data shared after a stage


def attack_maps(target: Target, shadows: Sequence[Shadow], config: Settings) -> Iterator[Finding]:
    """Compare the error maps of the stage's student, of each kind, with training patients and with others."""
    for kind in KINDS:

        def shared(student: Student, patients: frozenset[str] | None = None, kind: str = kind) -> torch.Tensor:
            hospital = target.hospital
            if patients is not None:
                cases = [*hospital.training, *target.others]
                hospital = replace(hospital, training=tuple(c for c in cases if c.case.patient in patients))
            return _maps(student, hospital, kind, config, target.stage, target.adapter)

        references = [(shared(shadow.student, shadow.patients), shadow.patients) for shadow in shadows]
        yield from _compare_maps(shared(target.student), references, f"{kind} error maps", target, config)


def attack_images(target: Target, config: Settings) -> Iterator[Finding]:
    """Compare the synthetic images and masks of image replay with training patients and with others."""
    images, masks = _images(target.student, target.hospital, config)
    yield from _compare(contours(masks), (), _outlines(target, config), CONTOUR, IMAGES, target, config)

    def scans(cases: Sequence[CachedCase]) -> torch.Tensor:
        return items(cases, config, target.device)[0]

    yield from _compare(images, (), scans, "nearest image", IMAGES, target, config)


def _outlines(target: Target, config: Settings) -> Callable[[Sequence[CachedCase]], torch.Tensor]:
    return lambda cases: contours(items(cases, config, target.device)[1])


Reference = tuple[torch.Tensor, frozenset[str]]
"""What a shadow model would share, and the patients it was trained on."""


def _compare_maps(
    maps: torch.Tensor, references: Sequence[Reference], channel: str, target: Target, config: Settings
) -> Iterator[Finding]:
    """Compare maps with contours and true errors of training patients and of other patients."""

    def errors(cases: Sequence[CachedCase]) -> torch.Tensor:
        image, truth = items(cases, config, target.device)
        return truth - target.student.segment(image if target.adapter is None else target.adapter(image).detach())

    sizes = [(of_shadow.abs(), patients) for of_shadow, patients in references]
    yield from _compare(maps.abs(), sizes, _outlines(target, config), CONTOUR, channel, target, config)
    yield from _compare(maps, references, errors, "nearest error map", channel, target, config)


def _compare(
    shared: torch.Tensor,
    references: Sequence[Reference],
    look: Callable[[Sequence[CachedCase]], torch.Tensor],
    attack: str,
    channel: str,
    target: Target,
    config: Settings,
) -> Iterator[Finding]:
    """Compare shared data with what `look` returns for each patient, plain and calibrated by the shadows' data."""
    members = len(patients_of(target.hospital.training))
    pool = patients_of([*target.hospital.training, *target.others])
    banks = [shared, *(of_shadow for of_shadow, _ in references)]
    by_patient = [[nearness(bank, [seen])[:, 0] for bank in banks] for seen in map(look, pool)]  # one at a time
    near, *of_shadows = (np.stack(columns, 1) for columns in zip(*by_patient, strict=True))
    rng = rng_for(config, channel, attack, target.stage)
    best = near.max(0)
    scores = list(best[:, None])
    test = distance_test(near[:, :members], near[:, members:], rng)
    yield finding(channel, attack, target, scores[:members], scores[members:], rng, test)
    if references:
        seen = [[cases[0].case.patient in patients for cases in pool] for _, patients in references]
        others = [np.where(own, np.nan, of_shadow.max(0)) for of_shadow, own in zip(of_shadows, seen, strict=True)]
        scores = list(calibrated(-best, [-other for other in others])[:, None])
        yield finding(channel, attack + CALIBRATED, target, scores[:members], scores[members:], rng)


def _maps(
    student: Student,
    hospital: Hospital,
    kind: str,
    config: Settings,
    stage: int = 1,
    adapter: SiteAdapter | None = None,
) -> torch.Tensor:
    """Return the error maps of a kind that a hospital would share after a stage that ended with `student`."""
    sharing = config.replace({"method.shared_error_maps": kind, "privacy.dp_noise": 0.0}, method="ser-diff")
    kept = consolidate(student, stage, hospital, sharing, [ERROR_MAPS], adapter)
    return from_levels(kept[ERROR_MAPS]["maps"])


def _images(student: Student, hospital: Hospital, config: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the synthetic images and masks that a hospital would share for image replay."""
    sharing = config.replace({"privacy.dp_noise": 0.0}, method="image-replay")
    kept = consolidate(student, 1, hospital, sharing, [SYNTHETIC_IMAGES])[SYNTHETIC_IMAGES]
    return kept["images"].float(), kept["masks"].float()


# Weights


def attack_weights(
    target: Target, final: Student | None, shadows: Sequence[Shadow], config: Settings
) -> Iterator[Finding]:
    """Attack membership in a stage's student and the last one, by losses, plain and calibrated by the shadows.

    For the first stage, also attack what a cheating coordinator gets, which lets the hospital train for four stages.
    """
    groups = (patients_of(target.hospital.training), patients_of(target.others))
    attacked = [(f"student of stage {target.stage}", target.student)]
    if final is not None:
        attacked.append((LAST, final))
    if target.stage == 1:
        everyone = target.hospital.training
        attacked.append((GREEDY, train(target.before, everyone, config, "greedy", target.adapter, _AS_LONG)))
    for channel, student in attacked:
        yield from _ask(channel, student, groups, shadows, target, config)


def _ask(
    channel: str,
    student: Student,
    groups: tuple[Sequence[Sequence[CachedCase]], Sequence[Sequence[CachedCase]]],
    shadows: Sequence[Shadow],
    target: Target,
    config: Settings,
) -> Iterator[Finding]:
    """Attack a student by each loss; the first group are the members, the second the others."""
    pool, members = [*groups[0], *groups[1]], len(groups[0])
    found = [losses(student, *items(cases, config, target.device), target.adapter) for cases in pool]
    for name in LOSSES:
        plain = [-loss[name] for loss in found]
        versus = [
            calibrated(loss[name], [s.losses[who][name] for s in shadows if who not in s.patients])
            for loss, who in zip(found, (cases[0].case.patient for cases in pool), strict=True)
        ]
        for attack, scores in ((f"{name} loss", plain), (f"{name} loss{CALIBRATED}", versus)):
            rng = rng_for(config, channel, attack, target.stage)
            yield finding(channel, attack, target, scores[:members], scores[members:], rng)


# Canaries


def attack_canaries(target: Target, shadows: Sequence[Shadow], config: Settings) -> Iterator[Finding]:
    """Plant shapes in the first hospital's training patients, train a stage, and search for them in what it shares.

    Some shapes resemble lesions more than others. The calibrated attack therefore asks how much nearer the maps are to
    a shape than the maps of the stage's own student, which never saw it.
    """
    rng = rng_for(config, "canaries")
    training = list(target.hospital.training)
    chosen = rng.permutation(len(training))[: min(_CANARIES, max(1, len(training) // 2))]
    shapes = []
    for number in chosen:
        training[number], alone = plant(training[number], rng)
        shapes.append(_outline(alone, target, config))
    for number in rng.integers(len(target.hospital.training), size=_UNPLANTED):
        shapes.append(_outline(plant(target.hospital.training[number], rng)[1], target, config))
    student = train(target.before, training, config, "canaries")
    with_canaries = replace(target.hospital, training=tuple(training))
    planted = len(chosen)

    def recovery(channel: str, shared: torch.Tensor, reference: torch.Tensor | None = None) -> Iterator[Finding]:
        near = nearness(shared, shapes).max(0)[:, None]
        yield finding(channel, CANARIES, target, list(near[:planted]), list(near[planted:]), rng)
        if reference is not None:
            nearer = near - nearness(reference, shapes).max(0)[:, None]
            found, others = nearer[:planted], nearer[planted:]
            if channel == NEVER:  # no shape was planted there, so more shapes give a better estimate
                found, others = others[::2], others[1::2]
            yield finding(channel, CANARIES + CALIBRATED, target, list(found), list(others), rng)

    without = {kind: _maps(target.student, target.hospital, kind, config).abs() for kind in KINDS}
    for kind in KINDS:
        yield from recovery(f"{kind} error maps", _maps(student, with_canaries, kind, config).abs(), without[kind])
    untrained = new_student(config).to(target.device)
    yield from recovery("untrained null error maps", _maps(untrained, with_canaries, "null", config).abs())
    yield from recovery(IMAGES, contours(_images(student, with_canaries, config)[1]))
    never = _maps(shadows[0].student, target.hospital, "null", config).abs()
    yield from recovery(NEVER, never, without["null"])
    yield from recovery(COPIES, torch.cat([shape[:1] for shape in shapes[:planted]]), without["null"])


def _outline(alone: NDArray[np.uint8], target: Target, config: Settings) -> torch.Tensor:
    masks = torch.from_numpy(alone).float().to(target.device)
    if config.data.spatial_dims == 3:
        return contours(masks[None])
    slices = masks.movedim(-1, 0)
    return contours(slices[slices.flatten(1).any(1)])


# Controls: what an attack must find, and what it must not find


def control_maps(target: Target, shadows: Sequence[Shadow], config: Settings) -> Iterator[Finding]:
    """Attack a bank of copies of training patients' errors, and a bank from a student trained on other patients."""
    references = [(_maps(shadow.student, target.hospital, "null", config), shadow.patients) for shadow in shadows]
    copies = []
    for cases in patients_of(target.hospital.training):
        image, truth = items(cases, config, target.device)
        copies.append(truth[:1] - target.student.segment(image[:1]))
    yield from _compare_maps(torch.cat(copies), references, COPIES, target, config)
    others = patients_of(target.others)
    if len(others) < 2:
        return
    stranger = train(target.before, [cached for cases in others[::2] for cached in cases], config, "stranger")
    unseen = replace(
        target, strangers=[c for cases in others[1::2] for c in cases], hospital=replace(target.hospital, test=())
    )
    yield from _compare_maps(_maps(stranger, target.hospital, "null", config), references, NEVER, unseen, config)


def control_weights(target: Target, shadows: Sequence[Shadow], config: Settings) -> Iterator[Finding]:
    """Attack a model that memorises a few patients, and attack with members whom the student never saw."""
    few = patients_of(target.hospital.training)[:_MEMORISED]
    memoriser = train(target.before, [c for cases in few for c in cases], config, "memoriser", length=_AS_LONG)
    others = patients_of(target.others)
    yield from _ask(MEMORISER, memoriser, (few, others), shadows, target, config)
    if len(others) > 1:
        yield from _ask(NEVER_SEEN, target.student, (others[::2], others[1::2]), shadows, target, config)


def finding(
    channel: str,
    attack: str,
    target: Target,
    members: Sequence[Scores],
    others: Sequence[Scores],
    rng: np.random.Generator,
    distance: DistanceTest | None = None,
    resemblance: Resemblance | None = None,
) -> Finding:
    """Return the finding from an attack's scores of members and of others, by patient (or shape, or slice)."""
    tprs = {fpr: tpr_at(fpr, members, others, rng) for fpr in FPRS}
    whole, site = auc(members, others, rng), target.hospital.site.name
    return Finding(channel, attack, target.stage, site, whole, len(members), len(others), tprs, distance, resemblance)
