import copy
from typing import Any

import numpy as np
import pytest
import torch
from losses import terms_of
from students import lively_student

import sites.objectives.ewc
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import segmentation_loss
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import FISHER
from sites.hospital import Hospital
from sites.objectives.ewc import EwcObjective
from sites.objectives.fine_tune import FineTuneObjective
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
Fisher = dict[str, torch.Tensor]


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes}, method="ewc")


def batch_of(hospital: Hospital, config: Settings) -> Batch:
    return TrainingSet(hospital.training, config, CPU).batch(torch.arange(4))


def random_fisher(student: Student) -> Fisher:
    """Importances from 0 to 1, a third of them 0."""
    draws = torch.Generator().manual_seed(2)
    drawn = {name: torch.rand(w.shape, generator=draws) for name, w in student.named_parameters()}
    return {name: torch.where(value < 1 / 3, 0.0, value) for name, value in drawn.items()}


def terms(objective: EwcObjective | FineTuneObjective, student: Student, batch: Batch) -> dict[str, torch.Tensor]:
    return terms_of(objective, student, batch)


@pytest.mark.parametrize("dims", [2, 3])
def test_fisher_is_the_mean_square_of_batch_gradients(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, dims: int
) -> None:
    batches = 4
    monkeypatch.setattr(sites.objectives.ewc, "_FISHER_BATCHES", batches)
    config = smoke(**{"data.spatial_dims": dims, "training.batch_size": 3})
    student, training_set = lively_student(config), TrainingSet(hospital.training, config, CPU)
    (fisher,) = EwcObjective(config).consolidate(copy.deepcopy(student), training_set, "site-1", 2).values()

    weights = dict(student.named_parameters())
    draws = generator(config.seed, "fisher", "site-1", 2)
    noise = generator(config.seed, "fisher-noise", "site-1", 2)
    squares: dict[str, list[np.ndarray]] = {name: [] for name in weights}
    for number in range(batches):
        batch = training_set.batch(training_set.draw(3, draws))
        loss = segmentation_loss(student, Lesson(batch.image, batch.truth, noise), number in (1, 3))
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(weights, gradients, strict=True):
            squares[name].append(gradient.numpy().astype(float) ** 2)

    assert set(fisher) == set(weights)
    for name, values in fisher.items():
        assert values.dtype == torch.float32
        assert not values.requires_grad
        expected = np.mean(squares[name], axis=0)
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-3, atol=1e-6 * max(expected.max(), 1e-6))
    assert sum(float(values.sum()) for values in fisher.values()) > 0


def test_fisher_repeats_and_depends_on_seed_and_hospital(
    hospitals: list[Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites.objectives.ewc, "_FISHER_BATCHES", 2)

    def total(hospital: Hospital, **changes: Any) -> float:
        config = smoke(**changes)
        training_set = TrainingSet(hospital.training, config, CPU)
        memory = EwcObjective(config).consolidate(lively_student(smoke()), training_set, "site-1", 1)
        return sum(float(values.double().sum()) for values in memory[FISHER].values())

    assert total(hospitals[0]) == total(hospitals[0])
    assert len({total(hospitals[0]), total(hospitals[1]), total(hospitals[0], seed=1)}) == 3


def test_penalty_is_half_the_weighted_square_of_what_moved(hospital: Hospital) -> None:
    config = smoke(**{"method.weight": 30.0})
    student, anchor = lively_student(config), new_student(config)
    fisher = random_fisher(student)
    found = terms(EwcObjective(config, anchor, {FISHER: fisher}), student, batch_of(hospital, config))
    assert list(found) == ["segmentation", "consolidation"]
    start = dict(anchor.named_parameters())
    expected = sum(
        15.0 * (fisher[name].numpy().astype(float) * (w - start[name]).detach().numpy().astype(float) ** 2).sum()
        for name, w in student.named_parameters()
    )
    assert expected > 1
    assert float(found["consolidation"].detach()) == pytest.approx(expected, rel=1e-4)


def test_the_penaltys_gradient_pulls_each_weight_to_the_anchor_by_its_importance(hospital: Hospital) -> None:
    config = smoke(**{"method.weight": 30.0})
    student, anchor = lively_student(config), new_student(config)
    fisher = random_fisher(student)
    anchor.requires_grad_(False)
    found = terms(EwcObjective(config, anchor, {FISHER: fisher}), student, batch_of(hospital, config))
    found["consolidation"].backward()  # type: ignore[no-untyped-call]
    start = dict(anchor.named_parameters())
    for name, weight in student.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(weight.grad, 30 * fisher[name] * (weight.detach() - start[name]), rtol=1e-4, atol=1e-6)
        nearer = weight.detach() - 0.01 * weight.grad
        held = (fisher[name] > 0) & (weight.detach() != start[name])
        assert bool(((nearer - start[name]).abs() < (weight.detach() - start[name]).abs())[held].all())
        assert torch.equal(nearer[fisher[name] == 0], weight.detach()[fisher[name] == 0])


def test_a_student_that_has_not_moved_pays_nothing(hospital: Hospital) -> None:
    config = smoke()
    student = lively_student(config)
    objective = EwcObjective(config, copy.deepcopy(student), {FISHER: random_fisher(student)})
    assert float(terms(objective, student, batch_of(hospital, config))["consolidation"].detach()) == 0


@pytest.mark.parametrize(
    ("weight", "anchored", "kept"),
    [(0.0, True, True), (1000.0, False, True), (1000.0, True, False)],
    ids=["weight 0", "no anchor", "no Fisher"],
)
def test_without_a_past_or_weight_the_loss_is_that_of_fine_tuning(
    hospital: Hospital, weight: float, anchored: bool, kept: bool
) -> None:
    config = smoke(**{"method.weight": weight})
    student, batch = lively_student(config), batch_of(hospital, config)
    memory = {FISHER: random_fisher(student)} if kept else {}
    ours = terms(EwcObjective(config, new_student(config) if anchored else None, memory), student, batch)
    plain = terms(FineTuneObjective(config), student, batch)
    assert list(ours) == ["segmentation"]
    assert float(ours["segmentation"].detach()) == float(plain["segmentation"].detach())
