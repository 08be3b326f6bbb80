"""Only a round's batches are augmented, and only if settings say so; data tied to their voxels moves with them."""

import dataclasses
from typing import Any

import pytest
import torch
from students import lively_student

import sites.training
from fedserdiff.augmentation.chance import strengthened
from fedserdiff.augmentation.movement import Movement, rotation
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.augmenter import Augmenter
from sites.hospital import Hospital
from sites.objectives.ser_diff import SerDiffObjective
from sites.training import Order, run_round
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
ALWAYS: dict[str, Any] = {
    f"augmentation.{name}": 1.0
    for name in ("rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
}


def settings(**changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes}, method="fine-tune")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that a round learns from."""
    batches: list[Batch] = []
    real = Augmenter.__call__

    def spy(self: Augmenter, batch: Batch) -> Batch:
        batches.append(real(self, batch))
        return batches[-1]

    monkeypatch.setattr(sites.training.Augmenter, "__call__", spy)
    return batches


def trained(hospital: Hospital, config: Settings) -> dict[str, torch.Tensor]:
    student = lively_student(config)
    run_round(student, Order(1, 1), hospital, lambda site: hospital, config)
    return {name: value.detach() for name, value in student.state_dict().items()}


def test_off_is_the_batch_itself_whatever_else_is_set(hospital: Hospital, seen: list[Batch]) -> None:
    plain = trained(hospital, settings())
    batches = list(seen)
    also = trained(hospital, settings(**ALWAYS))
    assert all(torch.equal(plain[name], also[name]) for name in plain)
    training_set = TrainingSet(hospital.training, settings(), CPU)
    batch = training_set.batch(torch.arange(3))
    assert Augmenter(settings(**ALWAYS), CPU, "a")(batch) is batch
    for one in batches:
        assert torch.equal(one.image, training_set.batch(one.index, one.mirrored).image)


def test_on_changes_every_batch_the_same_way_again_and_another_way_by_another_seed(
    hospital: Hospital, seen: list[Batch]
) -> None:
    on = {**ALWAYS, "augmentation.strength": "on"}
    first, again = trained(hospital, settings(**on)), trained(hospital, settings(**on))
    assert all(torch.equal(first[name], again[name]) for name in first)
    halfway = len(seen) // 2
    training_set = TrainingSet(hospital.training, settings(), CPU)
    for one, same in zip(seen[:halfway], seen[halfway:], strict=True):
        assert torch.equal(one.image, same.image)
        assert not torch.equal(one.image, training_set.batch(one.index, one.mirrored).image)
        assert set(one.truth.unique().tolist()) <= {0.0, 1.0}
    batch = training_set.batch(torch.arange(3))
    other = Augmenter(settings(**on).replace(seed=1), CPU, "a")(batch)
    assert not torch.equal(Augmenter(settings(**on), CPU, "a")(batch).image, other.image)


def test_strong_is_what_strengthened_settings_do(hospital: Hospital) -> None:
    batch = TrainingSet(hospital.training, settings(), CPU).batch(torch.arange(6))
    own = settings(**ALWAYS).augmentation
    wider = {f"augmentation.{name}": value for name, value in strengthened(own)}
    strong = Augmenter(settings(**ALWAYS, **{"augmentation.strength": "strong"}), CPU, "a")(batch)
    same = Augmenter(settings(**{**wider, "augmentation.strength": "on"}), CPU, "a")(batch)
    assert torch.equal(strong.image, same.image)


def test_no_batch_is_mirrored_where_mirroring_is_0_and_every_one_where_it_is_1(
    hospital: Hospital, seen: list[Batch]
) -> None:
    trained(hospital, settings(**{"augmentation.mirroring": 0.0}))
    assert not any(batch.mirrored for batch in seen)
    seen.clear()
    trained(hospital, settings(**{"augmentation.mirroring": 1.0}))
    assert all(batch.mirrored for batch in seen)
    assert seen


def test_a_teachers_maps_go_where_their_samples_go(hospitals: list[Hospital]) -> None:
    config = make_settings(
        "smoke", {"replay.conditional_maps": 99, "replay.map_steps": 1, "network.precision": "fp32"}, method="ser-diff"
    )
    training_set = TrainingSet(hospitals[0].training, config, CPU)
    objective = SerDiffObjective(config, lively_student(config))
    objective.begin(training_set, "site-1", stage=2, server_round=1)
    batch = training_set.batch(torch.arange(4))
    maps = objective._old_maps(batch)
    turn = Movement(torch.tensor([0, 2]), rotation(torch.full((2, 1), torch.pi)))  # half a turn fits any grid
    moved = objective._old_maps(dataclasses.replace(batch, movement=turn))
    torch.testing.assert_close(moved[0::2], maps[0::2].flip(2, 3), atol=1e-4, rtol=0)
    assert torch.equal(moved[1::2], maps[1::2])
    mirrored = objective._old_maps(dataclasses.replace(batch.mirror(), movement=turn))
    torch.testing.assert_close(mirrored[0::2], maps[0::2].flip(3), atol=1e-4, rtol=0)
    assert torch.equal(mirrored[1::2], maps[1::2].flip(2))


def test_what_belongs_to_voxels_follows_the_image_of_an_augmented_batch(hospital: Hospital) -> None:
    """The truth, carried as values beside the batch, is the truth that the batch then has."""
    on = {"augmentation.strength": "on", **ALWAYS}
    training_set = TrainingSet(hospital.training, settings(), CPU)
    index = training_set.draw(8, torch.Generator().manual_seed(0))  # four of them show tumour
    batch, unmirrored = training_set.batch(index, mirrored=True), training_set.batch(index)
    augmented = Augmenter(settings(**on), CPU, "a")(batch)
    assert torch.equal((augmented.follow(unmirrored.truth) >= 0.5).float(), augmented.truth)
    assert not torch.equal(augmented.truth, batch.truth)
