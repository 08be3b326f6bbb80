"""The raw-data baselines of ``scripts/adapted_baselines.py``, which only a simulation can run."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.objectives.rehearsal import buffer
from sites.training import Order, run_round
from sites.training_set import TrainingSet

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def baselines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("adapted_baselines")


def test_without_adapters_a_stage_is_the_methods_own(baselines: ModuleType, hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", method="rehearsal", sites=tuple(h.site for h in hospitals))
    by_site = {h.site: h for h in hospitals}
    ours, theirs = lively_student(config), lively_student(config)
    cases = {"site-1": buffer(hospitals[0], config), "site-2": hospitals[1].training}
    baselines._train(ours, 2, 1, cases, {}, "site-2", config)
    for server_round in range(1, config.training.rounds + 1):
        received = wire.weights_to_record(theirs)
        run_round(theirs, Order(2, server_round), hospitals[1], by_site.__getitem__, config)
        wire.load_weights(theirs, wire.changed(received, wire.change_to_record(theirs, received)))
    assert all(torch.equal(ours.state_dict()[name], weights) for name, weights in theirs.state_dict().items())


def test_each_scan_goes_through_the_adapter_of_its_own_site(baselines: ModuleType, hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", method="rehearsal")
    adapter = SiteAdapter(4)
    adapter.signs.fill_(-1)
    cases = {h.site.name: h.training for h in hospitals}
    training_set = TrainingSet([case for own in cases.values() for case in own], config, CPU)
    first = len(TrainingSet(hospitals[0].training, config, CPU))
    index = torch.tensor([len(training_set) - 1, first - 1, first, 0])
    batch = training_set.batch(index)
    for site, turned in (("site-1", [1, -1, 1, -1]), ("site-2", [-1, 1, -1, 1])):
        objective = baselines.BehindAdapters(config, cases, {site: adapter})
        (lesson,) = objective.lessons(batch, torch.Generator()).values()
        assert torch.equal(lesson.image, batch.image * torch.tensor(turned).reshape(-1, 1, 1, 1))
        assert objective.learns_beside("refiner", 0.1) == []
        (group,) = objective.learns_beside("coarse", 0.1)
        assert {id(w) for w in group["params"]} == {id(w) for w in adapter.parameters()}
