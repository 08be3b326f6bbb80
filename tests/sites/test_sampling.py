from collections import Counter
from typing import Any

import pytest
import torch

from fedserdiff import wire
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.sampling import Sampling
from sites.training import Order, consolidate, run_round
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")


def epochs(**changes: object) -> Settings:
    settings = {
        "method": "fine-tune",
        "training.steps_per_stage": 0,
        "training.epochs_per_stage": 2,
        "training.rounds": 2,
        "training.batch_size": 5,
    }
    return make_settings("smoke", settings | changes)


def shows_tumour(training_set: TrainingSet) -> torch.Tensor:
    return training_set.batch(torch.arange(len(training_set))).truth.flatten(1).any(1)


def visited(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count, from now on, how often each item is read."""
    counts: Counter[int] = Counter()
    real = TrainingSet.batch

    def counting(self: TrainingSet, index: torch.Tensor, *rest: Any) -> Batch:
        counts.update(index.tolist())
        return real(self, index, *rest)

    monkeypatch.setattr(TrainingSet, "batch", counting)
    return counts


def test_an_epoch_passes_over_every_item_once(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs in two rounds: each item is learnt from twice. Draws with replacement would reach 63 % of them."""
    config = epochs()
    items = len(TrainingSet(hospital.training, config, CPU))
    assert items % config.training.batch_size  # the last batch of a pass is smaller
    counts = visited(hospital, monkeypatch)
    student = new_student(config)
    for server_round in (1, 2):
        run_round(student, Order(1, server_round), hospital, lambda s: hospital, config)
    assert counts == dict.fromkeys(range(items), 2)


def test_the_image_model_passes_over_every_item_too(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    config = epochs(method="image-replay")
    items = len(TrainingSet(hospital.training, config, CPU))
    counts = visited(hospital, monkeypatch)
    consolidate(new_student(config), 1, hospital, config, [wire.SYNTHETIC_IMAGES])
    assert counts == dict.fromkeys(range(items), 2)


def test_the_order_is_drawn_anew_each_epoch_from_seed_site_and_stage(hospital: Hospital) -> None:
    config = epochs()
    training_set = TrainingSet(hospital.training, config, CPU)

    def order(config: Settings, site: str, stage: int) -> list[list[int]]:
        sampling = Sampling(training_set, config, site, stage)
        return [sampling.items(step, torch.Generator()).tolist() for step in range(sampling.steps)]

    first = order(config, "site-1", 1)
    assert first == order(config, "site-1", 1)
    others = [order(config.replace(seed=1), "site-1", 1), order(config, "site-2", 1), order(config, "site-1", 2)]
    assert all(first != other for other in others)
    half = len(first) // 2
    assert first[:half] != first[half:]
    again = Sampling(training_set, config, "site-1", 1)  # a round that is asked for again begins in the middle
    assert again.items(half + 1, torch.Generator()).tolist() == first[half + 1]


def test_a_balanced_epoch_is_half_of_tumour_and_passes_over_everything(hospital: Hospital) -> None:
    config = epochs(**{"training.balance_epochs": True})
    training_set = TrainingSet(hospital.training[:1], config, CPU)
    tumour = shows_tumour(training_set)
    assert 0 < tumour.sum() < len(tumour) / 2, "there is something to balance"
    sampling = Sampling(training_set, config, "site-1", 1)
    counts: Counter[int] = Counter()
    for step in range(sampling.steps // 2):
        batch = sampling.items(step, torch.Generator())
        counts.update(batch.tolist())
        shown = tumour[batch].tolist()
        assert shown == sorted(shown, reverse=True)  # those that show tumour come first
    of_tumour = [counts[item] for item in range(len(tumour)) if tumour[item]]
    of_others = [counts[item] for item in range(len(tumour)) if not tumour[item]]
    assert set(of_others) == {1}
    assert sum(of_tumour) == sum(of_others)
    assert max(of_tumour) - min(of_tumour) <= 1


def test_a_stage_of_steps_draws_half_of_each_batch_from_tumour(hospital: Hospital) -> None:
    config = make_settings("smoke", {"training.steps_per_stage": 20, "training.batch_size": 7})
    training_set = TrainingSet(hospital.training, config, CPU)
    tumour = shows_tumour(training_set)
    sampling = Sampling(training_set, config, "site-1", 1)
    draws = generator(0, "batches")
    assert sampling.steps == 20
    for step in range(20):
        batch = sampling.items(step, draws)
        assert len(batch) == 7
        assert tumour[batch[:3]].all()


def test_balance_is_a_setting_of_epochs_alone() -> None:
    with pytest.raises(ConfigError, match="balance_epochs"):
        make_settings("smoke", {"training.balance_epochs": True})
