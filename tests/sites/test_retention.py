"""A hospital's report on earlier ones after a stage: Dice of two students on the same painted samples."""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType
from painted import moments
from scene import NORTH, ORDER, Scene
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.evaluation.segmentation import dice
from fedserdiff.lesions.brush import Painter
from fedserdiff.lesions.painting import paint
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import LESION_MOMENTS, Memory
from sites.hospital import Hospital
from sites.objectives.lesion_replay import LesionReplayObjective
from sites.retention import interpolated, painted_dice
from sites.training import Order, Round, run_round
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
PAST: Memory = {LESION_MOMENTS: moments()}
WITHOUT_ET = moments(extent=moments()["extent"][0] * torch.tensor([1.0, 1, 0])[:, None])


def of_hospitals(*patients: float) -> Memory:
    """A bank of hospitals that say they have so many patients."""
    each = [moments(count) for count in patients]
    return {LESION_MOMENTS: {name: torch.cat([one[name] for one in each]) for name in each[0]}}


def smoke(**changes: object) -> Settings:
    sites = tuple(Site(f"site-{number}", "brats2021", "") for number in range(1, 5))
    return make_settings("smoke", {"method": "lesion-replay", "training.rounds": 1, **changes}, sites=sites)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def other_student(config: Settings) -> Student:
    student = lively_student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.5)
    return student


def blind_student(config: Settings) -> Student:
    """Sees no tumour anywhere: all of its probabilities are a half."""
    student = new_student(config)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    return student


def figures(*places: int, regions: tuple[str, ...] = ("tc", "wt", "et")) -> set[str]:
    """Names of the figures about hospitals in these places."""
    return {f"retained-{p}-{region}-{when}" for p in places for region in regions for when in ("before", "after")}


def told(hospital: Hospital, student: Student, memory: Memory = PAST, stage: int = 2, **changes: object) -> Round:
    """What comes of a stage's last round in which `student` learns, with a lively teacher."""
    config = smoke(**changes)
    teacher = lively_student(config).requires_grad_(False)
    return run_round(
        student, Order(stage, 1, teachers=(teacher,), memory=memory), hospital, lambda site: hospital, config
    )


@pytest.mark.parametrize(("past", "regions"), [(moments(), 3), (WITHOUT_ET, 2)], ids=["all", "no enhancing tumour"])
def test_dice_is_of_all_painted_samples_as_one_volume_and_none_where_a_region_is_not_shown(
    hospital: Hospital, past: dict[str, torch.Tensor], regions: int
) -> None:
    config = smoke()
    students = [lively_student(config), other_student(config).train()]
    index = torch.arange(16).repeat(5)
    samples = with_regions(TrainingSet(hospital.training, config, CPU), regions)
    whitening, painter = torch.eye(4).repeat(3, 1, 1), Painter(past, 8.0)
    found = painted_dice(students, samples, index, painter, whitening, seeded(1), seeded(2), 80, 2)

    batch, noise = samples.batch(index), seeded(2)
    image, truth = paint(batch.image, batch.truth, painter.draw(batch.image.shape, seeded(1), noise), whitening)
    start = torch.randn(80, 3, 16, 24, generator=noise)
    for student, own in zip(students, found.numpy(), strict=True):
        masks = student.eval().predict(image, 2, start).refined.numpy() > 0.5
        wanted = [dice(masks[:, r], truth[:, r].numpy() > 0) for r in range(regions)]
        assert own == pytest.approx([*wanted, *[np.nan] * (3 - regions)], nan_ok=True)
    assert bool((found[0, :2] > 0).all())
    assert not torch.equal(found[0, :2], found[1, :2])


def with_regions(samples: TrainingSet, regions: int) -> TrainingSet:
    """The samples with their first regions alone: a lesion too small to be painted over stays what it is."""

    def batch(rows: torch.Tensor) -> Batch:
        whole = samples.batch(rows)
        return replace(whole, truth=whole.truth * (torch.arange(3)[:, None, None] < regions))

    return SimpleNamespace(batch=batch)  # type: ignore[return-value]


def test_students_stay_in_the_mode_that_they_came_in(hospital: Hospital) -> None:
    config = smoke()
    samples = TrainingSet(hospital.training, config, CPU)
    students = [lively_student(config).train(), lively_student(config).eval()]
    white = torch.eye(4).repeat(3, 1, 1)
    painted_dice(students, samples, torch.arange(2), Painter(moments(), 8.0), white, seeded(1), seeded(2), 1, 1)
    assert [student.training for student in students] == [True, False]


def test_a_student_that_sees_nothing_any_more_has_lost_all_that_the_teacher_had(hospital: Hospital) -> None:
    config = smoke(**{"aggregation.inertia": 0.0})
    objective = LesionReplayObjective(config, lively_student(config), PAST)
    objective.begin(TrainingSet(hospital.training, config, CPU), "site-2", 2, 1)
    kept = objective.retained(blind_student(config), hospital, 2)
    assert set(kept) == figures(1)
    assert kept["retained-1-wt-before"] > 5
    assert kept["retained-1-wt-after"] == 0
    assert all(type(value) is int for value in kept.values())


def test_validation_patients_are_painted_where_there_are_some(hospital: Hospital) -> None:
    config = smoke()

    def kept(at: Hospital) -> object:
        objective = LesionReplayObjective(config, lively_student(config), PAST)
        objective.begin(TrainingSet(hospital.training, config, CPU), "site-2", 2, 1)
        return objective.retained(other_student(config), at, 2)

    held_out = replace(hospital, validation=hospital.test)
    assert kept(held_out) == kept(replace(hospital, training=hospital.test))
    assert kept(held_out) != kept(hospital)


def test_only_hospitals_that_shared_moments_are_told_of_by_their_place(hospital: Hospital) -> None:
    done = told(hospital, lively_student(smoke()), of_hospitals(0, 10, 5))
    assert set(done.retained) == figures(2, 3)


def test_of_a_region_that_no_lesion_of_a_hospital_has_nothing_is_told(hospital: Hospital) -> None:
    done = told(hospital, lively_student(smoke()), {LESION_MOMENTS: WITHOUT_ET})
    assert set(done.retained) == figures(1, regions=("tc", "wt"))


@pytest.mark.parametrize(
    ("memory", "changes"),
    [
        ({}, {}),
        (of_hospitals(0), {}),
        (PAST, {"method.alarm_drop": 0.0}),
        (PAST, {"method.teacher": "first"}),
        (PAST, {"training.rounds": 2}),
    ],
    ids=["no past", "a past that shared nothing", "no alarm", "stage 1's teacher", "not the last round"],
)
def test_else_nothing_is_told(hospital: Hospital, memory: Memory, changes: dict[str, object]) -> None:
    assert told(hospital, lively_student(smoke()), memory, **changes).retained == {}


@pytest.mark.parametrize("painted", [0.5, 0.0], ids=["painting", "without painting and distillation"])
def test_training_is_to_the_last_bit_what_it_is_without_the_alarm(hospital: Hospital, painted: float) -> None:
    how = {"method.painted_share": painted, "method.distillation": painted}
    watched, not_watched = (lively_student(smoke()) for _ in range(2))
    one = told(hospital, watched, **how)
    other = told(hospital, not_watched, **how, **{"method.alarm_drop": 0.0})
    assert one.losses == other.losses
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), not_watched.parameters(), strict=True))
    assert set(one.retained) == figures(1)
    assert other.retained == {}


def test_the_student_that_is_scored_has_the_stages_inertia(hospital: Hospital) -> None:
    config = smoke()
    student, teacher = other_student(config), lively_student(config)
    before = copy.deepcopy(student)
    mixed = interpolated(student, teacher, 0.25)
    for own, old, new in zip(before.parameters(), teacher.parameters(), mixed.parameters(), strict=True):
        assert torch.allclose(new, 0.75 * own + 0.25 * old, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before.parameters(), strict=True))
    for inertia, retains in ((0.0, False), (0.999999, True)):
        kept = told(hospital, blind_student(config), of_hospitals(1e6), **{"aggregation.inertia": inertia}).retained
        assert (kept["retained-1-wt-after"] == kept["retained-1-wt-before"]) == retains


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene({"north": NORTH, "east": {"BraTS2021_00090": 10, "BraTS2021_00091": 13}}, method="lesion-replay")


def orders(scene: Scene) -> dict[str, object]:
    """What goes to a hospital in stage 2: moments of the first, and the teacher."""
    student = wire.weights_to_record(new_student(scene.config))
    record = ArrayRecord({name: Array(values.numpy()) for name, values in moments().items()})
    order = ConfigRecord({**ORDER, "stage": 2, "teacher-stage": [1]})
    return {wire.CONFIG: order, LESION_MOMENTS: record, wire.teacher_record(1): student}


def test_the_guard_lets_the_figures_of_a_stages_last_round_out_and_none_in_stage_1(scene: Scene) -> None:
    first = scene.order("north", MessageType.TRAIN)
    assert set(first.content.metric_records[wire.METRICS]) == {"loss-segmentation", wire.WEIGHT}
    second = scene.order("east", MessageType.TRAIN, orders(scene))
    metrics = second.content.metric_records[wire.METRICS]
    assert figures(1) < set(metrics)
    assert metrics["retained-1-wt-before"] in range(101)


def test_a_hospital_of_few_patients_says_in_its_log_that_it_shares_no_moments(scene: Scene) -> None:
    scene.order("east", wire.CONSOLIDATE)
    (line,) = [line for line in scene.log("east").splitlines() if "moments" in line]
    assert line.endswith(
        "WARNING shares no moments of its lesions, so later hospitals cannot paint them: "
        "fewer than method.least_patients = 5 of its training patients have a lesion"
    )
