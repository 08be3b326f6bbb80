"""Lesion replay inside a hospital: painted samples, distillation, and the record that leaves."""

import numpy as np
import pytest
import torch
from painted import moments
from students import lively_student

from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import LESION_MOMENTS, Memory
from sites.hospital import Hospital
from sites.objectives.base import SEGMENTATION
from sites.objectives.lesion_replay import LesionReplayObjective
from sites.training import consolidate
from sites.training_set import Batch, TrainingSet

PAST: Memory = {LESION_MOMENTS: moments()}


def smoke(**changes: object) -> Settings:
    return make_settings("smoke", {"method": "lesion-replay", **changes})


def at_work(
    hospital: Hospital, memory: Memory = PAST, seed: int = 0, **changes: object
) -> tuple[LesionReplayObjective, Batch]:
    """An objective in stage 2, and a batch of eight items."""
    config = smoke(seed=seed, **changes)
    training_set = TrainingSet(hospital.training, config, torch.device("cpu"))
    objective = LesionReplayObjective(config, lively_student(config).requires_grad_(False), memory)
    objective.begin(training_set, "site-2", 2, 1)
    return objective, training_set.batch(training_set.draw(8, torch.Generator().manual_seed(0)))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def painted_in(objective: LesionReplayObjective, batch: Batch) -> int:
    """How many samples of a step are none of the batch's own."""
    image = objective.lessons(batch, noise())[SEGMENTATION].image
    return sum(not any(torch.equal(sample, own) for own in batch.image) for sample in image)


def test_painted_samples_are_to_own_ones_as_earlier_patients_are_to_own_patients(hospital: Hospital) -> None:
    objective, batch = at_work(hospital, **{"method.painted_share": 0.25})
    own = len({case.case.patient for case in hospital.training})
    assert own == 3
    counts = [painted_in(objective, batch) for _ in range(40)]
    share = 0.25 * 10 / (0.25 * 10 + own)  # 10 earlier patients
    assert set(counts) == {3, 4}, "3.6 of 8 samples"
    assert np.mean(counts) == pytest.approx(share * 8, abs=3 * np.sqrt(0.25 / 40))


def test_what_is_not_painted_is_as_it_was_and_what_is_shows_a_lesion(hospital: Hospital) -> None:
    objective, batch = at_work(hospital)
    lesson = objective.lessons(batch, noise())[SEGMENTATION]
    count = lesson.taught
    assert lesson.truth[:count, 1].flatten(1).any(1).all()
    for image, truth in zip(lesson.image[count:], lesson.truth[count:], strict=True):
        places = [number for number, own in enumerate(batch.image) if torch.equal(own, image)]
        assert places, "an item may be drawn twice"
        assert torch.equal(truth, batch.truth[places[0]])


def test_every_step_paints_anew_and_a_round_that_is_asked_for_again_the_same(hospital: Hospital) -> None:
    objective, batch = at_work(hospital)
    one, other = (objective.lessons(batch, noise())[SEGMENTATION].image for _ in range(2))
    again, _ = at_work(hospital)
    seeded, _ = at_work(hospital, seed=1)
    assert not torch.equal(one, other)
    assert torch.equal(again.lessons(batch, noise())[SEGMENTATION].image, one)
    assert not torch.equal(seeded.lessons(batch, noise())[SEGMENTATION].image, one)


@pytest.mark.parametrize("memory", [{}, {LESION_MOMENTS: moments(0)}], ids=["no past", "a past that shared nothing"])
def test_without_moments_the_batch_is_learnt_as_it_is(hospital: Hospital, memory: Memory) -> None:
    objective, batch = at_work(hospital, memory)
    lesson = objective.lessons(batch, noise())[SEGMENTATION]
    assert torch.equal(lesson.image, batch.image)
    assert torch.equal(lesson.truth, batch.truth)


def test_the_latest_student_teaches_what_is_painted_by_a_share_of_lambda(hospital: Hospital) -> None:
    objective, batch = at_work(hospital, **{"method.lambda_kd": 2.0, "method.distillation": 0.3})
    lesson = objective.lessons(batch, noise())[SEGMENTATION]
    assert lesson.teacher is objective.teacher
    own = [any(torch.equal(image, other) for other in batch.image) for image in lesson.image]
    assert own == [False] * lesson.taught + [True] * (8 - lesson.taught)
    assert objective.weight("distillation") == pytest.approx(0.6 * 10 / 13), "10 earlier patients, 3 of its own"
    assert objective.weight("segmentation") == 1


@pytest.mark.parametrize("name", ["method.lambda_kd", "method.distillation"])
def test_where_distillation_weighs_nothing_nobody_teaches(hospital: Hospital, name: str) -> None:
    objective, batch = at_work(hospital, **{name: 0.0})
    lesson = objective.lessons(batch, noise())[SEGMENTATION]
    assert lesson.teacher is None
    assert not torch.equal(lesson.image, batch.image), "lesions are painted all the same"


def test_what_is_handed_over_is_of_one_hospital_and_zero_where_it_has_few_patients(hospital: Hospital) -> None:
    config = smoke()
    asked = get_method("lesion-replay").hands_over_all
    kept = consolidate(lively_student(config), 1, hospital, config, asked)[LESION_MOMENTS]
    assert {name: tuple(values.shape) for name, values in kept.items()} == {
        name: tuple(values.shape) for name, values in moments().items()
    }
    assert len({case.case.patient for case in hospital.training}) < 5
    assert not any(values.any() for values in kept.values())
