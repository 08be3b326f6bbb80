import copy
from typing import Any

import pytest
import torch
from losses import terms_of
from students import lively_student

from fedserdiff.diffusion.objective import coarse_terms, feature_distance
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.diffusion.schedule import add_noise
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.objectives.distill import DistillObjective
from sites.objectives.fine_tune import FineTuneObjective
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes})


def batch_of(hospital: Hospital, config: Settings) -> Batch:
    training_set = TrainingSet(hospital.training, config, CPU)
    return training_set.batch(training_set.draw(4, torch.Generator().manual_seed(5)))


def terms(
    config: Settings, student: Student, teacher: Student | None, batch: Batch, server_round: int = 1
) -> dict[str, torch.Tensor]:
    objective = DistillObjective(config, teacher)
    objective.begin(TrainingSet([], config, CPU), "site-2", 2, server_round)  # it looks at batches only
    found = terms_of(objective, student, batch)
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize(
    ("changes", "taught"),
    [({}, False), ({"method.lambda_kd": 0.0}, True), ({"replay.batch_size": 0}, True)],
    ids=["no teacher", "lambda 0", "nothing replayed"],
)
def test_without_distillation_the_loss_is_that_of_fine_tuning(
    hospital: Hospital, changes: dict[str, Any], taught: bool
) -> None:
    config = smoke(**changes)
    student, batch = lively_student(config), batch_of(hospital, config)
    ours = terms(config, student, new_student(config.replace(seed=3)) if taught else None, batch)
    plain = terms_of(FineTuneObjective(config), student, batch)
    assert list(ours) == list(plain) == ["segmentation"]
    assert float(ours["segmentation"]) == float(plain["segmentation"].detach())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_student_that_equals_its_teacher_distils_nothing_and_another_does(hospital: Hospital, dims: int) -> None:
    config = smoke(**{"data.spatial_dims": dims})
    student, batch = lively_student(config), batch_of(hospital, config)
    same = float(terms(config, student, copy.deepcopy(student), batch)["distillation"])
    assert same == pytest.approx(0, abs=1e-9)  # a pass of more samples may round otherwise
    assert float(terms(config, student, new_student(config.replace(seed=3)), batch)["distillation"]) > 0.01


def test_distillation_is_the_features_distance_at_the_teachers_true_errors(hospital: Hospital) -> None:
    config = smoke(**{"method.lambda_kd": 0.7, "method.gamma": 0.5, "replay.batch_size": 3})
    student, teacher = lively_student(config), new_student(config.replace(seed=3)).eval()
    batch = batch_of(hospital, config)
    with torch.no_grad():
        image = batch.image[:3]
        logits, old_coarse = teacher.coarse_features(image)
        p = torch.sigmoid(logits)
        draws = generator(config.seed, "replay-noise", "site-2", 2, 1)
        t = torch.randint(0, 1000, (3,), generator=draws)
        noisy = add_noise(batch.truth[:3] - p, torch.randn(p.shape, generator=draws), t)
        context = torch.cat([image, p, torch.zeros_like(p)], 1)
        pairs = (
            (student.coarse_features(image)[1], old_coarse),
            (student.denoise_features(noisy, t, context)[1], teacher.denoise_features(noisy, t, context)[1]),
        )
        expected = 0.7 * sum(float(feature_distance(s, t, 0.5)) for s, t in pairs)
    found = terms(config, student, teacher, batch)
    assert float(found["distillation"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms(config, student, teacher, batch, server_round=2)["distillation"]) != pytest.approx(expected)


def test_the_errors_are_those_of_the_truth_at_hand(hospital: Hospital) -> None:
    """Unlike generated maps, they need the truth: an inverted one is distilled at inverted errors."""
    config = smoke(**{"replay.batch_size": 2})
    student, teacher = lively_student(config), new_student(config.replace(seed=3))
    batch = batch_of(hospital, config)
    inverted = Batch(batch.image, 1 - batch.truth, batch.index)
    found = [float(terms(config, student, teacher, b)["distillation"]) for b in (batch, inverted)]
    assert found[0] != found[1]
    objective = DistillObjective(config, teacher)
    objective.begin(TrainingSet(hospital.training, config, CPU), "site-2", 2, 1)
    replayed = coarse_terms(student, objective.lessons(batch, torch.Generator())["segmentation"])[1].replayed
    assert replayed is not None
    draws = generator(config.seed, "replay-noise", "site-2", 2, 1)
    p = torch.sigmoid(teacher.coarse_logits(batch.image[:2]))
    t = torch.randint(0, 1000, (2,), generator=draws)
    expected = add_noise(batch.truth[:2] - p, torch.randn(p.shape, generator=draws), t)
    assert torch.allclose(replayed.noisy, expected, atol=1e-6)
