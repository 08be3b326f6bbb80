"""LwF and DER distil a teacher's outputs and nothing else."""

import pytest
import torch
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import coarse_terms, draws_for, refiner_terms
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.objectives.base import SEGMENTATION
from sites.objectives.der import DerObjective
from sites.objectives.lwf import LwfObjective
from sites.training_set import Batch
from strategies.stream import Stage, make_stream

CONFIG = make_settings("smoke", {"network.precision": "fp32"}, method="lwf")


def batch(config: Settings = CONFIG, samples: int = 3) -> Batch:
    draws = torch.Generator().manual_seed(1)
    grid = config.sample_shape
    truth = torch.rand(samples, 3, *grid, generator=draws) < 0.3
    return Batch(torch.randn(samples, 4, *grid, generator=draws), truth.float(), torch.arange(samples))


def frozen(seed: int) -> Student:
    return lively_student(CONFIG.replace(seed=seed)).eval().requires_grad_(False)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def test_the_coarse_network_is_held_to_the_teachers_probabilities() -> None:
    student, teacher, own = lively_student(CONFIG), frozen(5), batch()
    (lesson,) = LwfObjective(CONFIG, teacher).lessons(own, noise()).values()
    terms, _ = coarse_terms(student, lesson)
    p, taught = (torch.sigmoid(one.coarse_logits(own.image)) for one in (student, teacher))
    by_hand = -(taught * p.log() + (1 - taught) * (1 - p).log()).mean()
    assert terms.distillation is not None
    torch.testing.assert_close(terms.distillation, by_hand, rtol=1e-4, atol=1e-5)


def test_the_refiner_is_held_to_the_teachers_estimate_of_the_error() -> None:
    student, teacher, own = lively_student(CONFIG), frozen(5), batch()
    (lesson,) = LwfObjective(CONFIG, teacher).lessons(own, noise()).values()
    _, seen = coarse_terms(student, lesson)
    draws = draws_for(student, lesson, perturb=False)
    taught, alone = (
        refiner_terms(student, Lesson(own.image, own.truth, noise(), teacher=one, outputs_alone=True), seen, draws)
        for one in (teacher, student)
    )
    assert taught.distillation is not None
    assert alone.distillation is not None
    assert float(alone.distillation.detach()) == 0
    assert 0 < float(taught.distillation.detach()) <= 4  # of estimates from −1 to 1


def test_a_student_that_says_what_its_teacher_says_is_pulled_nowhere() -> None:
    student = lively_student(CONFIG)
    lesson = Lesson(batch().image, batch().truth, noise(), teacher=student, outputs_alone=True)
    terms, _ = coarse_terms(student, lesson)
    assert terms.distillation is not None
    gradients = torch.autograd.grad(terms.distillation, [*student.coarse.parameters()], allow_unused=True)
    assert all(gradient is None or gradient.abs().max() < 1e-6 for gradient in gradients)
    other = Lesson(batch().image, batch().truth, noise(), teacher=frozen(5), outputs_alone=True)
    held, _ = coarse_terms(student, other)
    assert held.distillation is not None
    pulled = torch.autograd.grad(held.distillation, [*student.coarse.parameters()], allow_unused=True)
    assert max(float(gradient.abs().max()) for gradient in pulled if gradient is not None) > 1e-4


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_lwf_has_no_teacher_in_stage_1_nor_without_weight(weight: float) -> None:
    config = CONFIG.replace({"method.lambda_kd": weight})
    teacher = None if weight else frozen(5)
    (lesson,) = LwfObjective(config, teacher).lessons(batch(), noise()).values()
    assert lesson.teacher is None
    assert coarse_terms(lively_student(config), lesson)[0].distillation is None


def test_the_last_stages_student_teaches_by_lwf_and_is_sent_once() -> None:
    stream = make_stream(CONFIG)
    student = wire.weights_to_record(lively_student(CONFIG))
    for stage, site in enumerate(("north", "west", "east"), 1):
        stream.begin_stage(stage, Stage(site, (site,)))
        assert set(stream.records_for(site, 1)) == ({wire.teacher_record(stage - 1)} if stage > 1 else set())
        stream.end_stage(student)
    assert not stream.consolidates()


def test_der_replays_synthetic_scans_with_the_outputs_of_the_student_that_was_there_when_they_were_made() -> None:
    config = make_settings("smoke", {"network.precision": "fp32", "replay.batch_size": 2}, method="der")
    own, kept = batch(config), batch(config, 5)
    memory = {wire.SYNTHETIC_IMAGES: {"images": kept.image.half(), "masks": kept.truth.to(torch.uint8)}}
    teacher = frozen(5)
    objective = DerObjective(config, teacher, memory)
    objective._replay, objective._noise = noise(), noise()
    lessons = objective.lessons(own, noise())
    assert lessons[SEGMENTATION].teacher is None
    replayed = lessons["replay"]
    assert replayed.teacher is teacher
    assert replayed.outputs_alone
    assert replayed.image.shape[0] == 2
    assert set(DerObjective(config, teacher).lessons(own, noise())) == {SEGMENTATION}
    stream = make_stream(config)
    stream.begin_stage(1, Stage("north", ("north",)))
    assert stream.consolidates()
    stream.end_stage(wire.weights_to_record(lively_student(config)))
    stream.begin_stage(2, Stage("west", ("west",)))
    assert not stream.consolidates()
    assert wire.teacher_record(1) in stream.records_for("west", 1)
