import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.privacy.gaussian import epsilon
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.training_set import TrainingSet

CONFIG = make_settings(
    "smoke",
    {"data.grid": (24, 32, 24), "data.spacing_mm": 6.0, "training.steps_per_stage": 3, "network.precision": "fp32"},
)


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
        return importlib.import_module("dp_sgd_study")


@pytest.fixture(scope="module")
def training_set(hospital: Hospital) -> TrainingSet:
    return TrainingSet(hospital.training[:2], CONFIG, torch.device("cpu"))


def test_each_slice_has_the_gradient_of_its_own_loss_whatever_else_is_in_the_batch(
    study: ModuleType, training_set: TrainingSet
) -> None:
    student = new_student(CONFIG)
    with torch.no_grad():
        for weight in student.parameters():  # the last layers start at 0, and let no gradient through
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    batch = training_set.batch(torch.tensor([3, 9, 14]))
    found = study.gradients(student, batch.image, batch.truth, False, torch.Generator().manual_seed(2))
    for item in range(3):
        image, truth = batch.image[item : item + 1], batch.truth[item : item + 1]
        loss = dice_bce_with_logits(student.coarse_logits(image), truth)
        own = torch.autograd.grad(loss, list(student.coarse.parameters()))
        for (name, _), expected in zip(student.coarse.named_parameters(), own, strict=True):
            torch.testing.assert_close(found[f"coarse.{name}"][item], expected, rtol=1e-3, atol=1e-6)
    assert set(found) == {name for name, _ in student.named_parameters()}


def test_what_is_spent_where_every_slice_is_in_every_step_is_that_of_as_many_gaussian_mechanisms(
    study: ModuleType, training_set: TrainingSet
) -> None:
    _, spent = study.train_privately(training_set, CONFIG, 4.0, 0.1, 10_000)
    exact = epsilon(4.0, CONFIG.training.steps_per_stage, 1e-4)
    assert exact <= spent <= 1.25 * exact  # Opacus bounds it by Rényi divergences


def test_noise_is_what_makes_students_differ_and_without_it_there_is_no_promise(
    study: ModuleType, training_set: TrainingSet
) -> None:
    (clean, nothing), (same, _), (noisy, spent) = (
        study.train_privately(training_set, CONFIG, noise, 0.1, 8) for noise in (0.0, 0.0, 1.0)
    )
    assert nothing is None
    assert spent > 0
    pairs = zip(clean.parameters(), same.parameters(), noisy.parameters(), strict=True)
    equal, moved = zip(*((torch.equal(a, b), not torch.equal(a, c)) for a, b, c in pairs), strict=True)
    assert all(equal)
    assert all(moved)
