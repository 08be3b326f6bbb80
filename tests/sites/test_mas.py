"""Memory aware synapses: importance by outputs, without truth."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from losses import terms_of
from students import lively_student

import sites.objectives.ewc
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import FISHER
from sites.hospital import Hospital
from sites.objectives.mas import MasObjective
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
BATCHES = 3


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(sites.objectives.ewc, "_FISHER_BATCHES", BATCHES)
    return make_settings("smoke", {"network.precision": "fp32", "training.batch_size": 3}, method="mas")


def test_importance_of_a_coarse_weight_is_how_much_the_squared_probabilities_change_with_it(
    hospital: Hospital, config: Settings
) -> None:
    student, training_set = lively_student(config), TrainingSet(hospital.training, config, CPU)
    (importance,) = MasObjective(config).consolidate(copy.deepcopy(student), training_set, "site-1", 2).values()
    draws = generator(config.seed, "fisher", "site-1", 2)
    images = [training_set.batch(training_set.draw(3, draws)).image for _ in range(BATCHES)]
    name, weight = next((n, w) for n, w in student.named_parameters() if n.startswith("coarse.") and w.ndim > 1)
    place = int(importance[name].abs().argmax())
    changes = []
    with torch.no_grad():
        for image in images:
            squares = []
            for step in (1e-3, -1e-3):
                weight.view(-1)[place] += step
                squares.append(float(torch.sigmoid(student.coarse_features(image)[0]).double().square().mean()))
                weight.view(-1)[place] -= step
            changes.append(abs(squares[0] - squares[1]) / 2e-3)
    assert float(importance[name].view(-1)[place]) == pytest.approx(np.mean(changes), rel=0.03)


def test_importance_of_coarse_weights_does_not_depend_on_the_truth(
    hospital: Hospital, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, training_set = lively_student(config), TrainingSet(hospital.training, config, CPU)
    (seen,) = MasObjective(config).consolidate(copy.deepcopy(student), training_set, "site-1", 2).values()
    own = TrainingSet.batch

    def emptied(self: TrainingSet, *arguments: torch.Tensor) -> Batch:
        batch = own(self, *arguments)
        return replace(batch, truth=torch.zeros_like(batch.truth))

    monkeypatch.setattr(TrainingSet, "batch", emptied)
    (blind,) = MasObjective(config).consolidate(copy.deepcopy(student), training_set, "site-1", 2).values()
    coarse = [name for name in seen if name.startswith("coarse.")]
    assert max(float(seen[name].max()) for name in coarse) > 0
    assert all(torch.equal(seen[name], blind[name]) for name in coarse)
    assert any(not torch.equal(seen[name], blind[name]) for name in seen if name not in coarse)  # noised error maps


def test_the_penalty_is_half_the_weight_times_importance_times_squared_distance(
    hospital: Hospital, config: Settings
) -> None:
    config = config.replace({"method.weight": 6.0})
    student, teacher = lively_student(config), lively_student(config)
    importance = {name: torch.full_like(weight, 2.0) for name, weight in student.named_parameters()}
    with torch.no_grad():
        for weight in student.parameters():
            weight += 0.1
    objective = MasObjective(config, teacher.requires_grad_(False), {FISHER: importance})
    batch = TrainingSet(hospital.training, config, CPU).batch(torch.arange(2))
    count = sum(weight.numel() for weight in student.parameters())
    found = float(terms_of(objective, student, batch)["consolidation"].detach())
    assert found == pytest.approx(6.0 / 2 * 2.0 * 0.01 * count, rel=1e-3)
