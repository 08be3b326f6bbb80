"""Batches prepared ahead of their steps: the same batches in the same order, one or two at a time."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import sites.training_set
from fedserdiff.errors import DataError
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.training_set import Batch, TrainingSet, ahead

CPU = torch.device("cpu")


def items_of(hospital: Hospital, dims: int = 2) -> TrainingSet:
    return TrainingSet(hospital.training, make_settings("smoke", {"data.spatial_dims": dims}), CPU)


@pytest.mark.parametrize("dims", [2, 3])
def test_batches_are_those_of_their_items_in_order_flipped_where_asked(hospital: Hospital, dims: int) -> None:
    training_set = items_of(hospital, dims)
    wanted = [(torch.randint(0, len(training_set), (2,)), n % 2 == 1) for n in range(7)]
    found = list(ahead(training_set, iter(wanted)))
    assert len(found) == 7
    for batch, (index, mirrored) in zip(found, wanted, strict=True):
        assert torch.equal(batch.index, index)
        assert batch.mirrored is mirrored
        for place, item in enumerate(index.tolist()):
            image, mask = plain_item(hospital, item, dims)
            flip = slice(None, None, -1) if mirrored else slice(None)
            np.testing.assert_array_equal(batch.image[place].numpy(), image[:, flip])
            np.testing.assert_array_equal(batch.truth[place].numpy(), mask[:, flip])


def plain_item(hospital: Hospital, item: int, dims: int) -> tuple[Any, Any]:
    """An item by counting slices with brain over the cases' whole arrays."""
    for cached in hospital.training:
        image, mask = cached.prepared.image.astype(np.float32), cached.prepared.mask.astype(np.float32)
        of_brain = np.flatnonzero((image != 0).any((0, 1, 2))) if dims == 2 else [slice(None)]
        if item < len(of_brain):
            return image[..., of_brain[item]], mask[..., of_brain[item]]
        item -= len(of_brain)
    raise IndexError(item)


@dataclass
class Counted:
    """A training set that counts how many batches it was asked for, and fails at one of them."""

    device: torch.device = CPU
    made: int = 0
    fails_at: int = -1

    def batch(self, index: torch.Tensor, mirrored: bool, margin: None = None) -> Batch:
        self.made += 1
        if self.made == self.fails_at:
            raise DataError("case 7: is gone")
        return Batch(index, index, index, mirrored)


def numbers(count: int, drawn: list[int]) -> Iterator[tuple[torch.Tensor, bool]]:
    for n in range(count):
        drawn.append(n)
        yield torch.tensor([n]), False


def test_no_more_than_two_batches_wait_and_a_round_that_ends_early_leaves_no_thread() -> None:
    counted, drawn = Counted(), list[int]()
    batches = ahead(counted, numbers(1000, drawn))  # type: ignore[arg-type] - all that it asks of a set
    threads = threading.active_count()
    for n in range(5):
        assert next(batches).index.tolist() == [n]
        assert counted.made <= n + 3
        assert len(drawn) <= n + 3
    batches.close()
    assert threading.active_count() == threads
    assert counted.made <= 7


def test_a_case_that_cannot_be_read_ends_the_round_with_its_own_error() -> None:
    counted, threads, found = Counted(fails_at=3), threading.active_count(), list[Batch]()
    with pytest.raises(DataError, match="case 7: is gone"):
        found.extend(b for b in ahead(counted, numbers(9, [])))  # type: ignore[arg-type] - as above
    assert [batch.index.tolist() for batch in found] == [[0], [1]]
    assert threading.active_count() == threads


@pytest.mark.parametrize("dims", [2, 3])
def test_a_set_that_its_device_has_room_for_stays_there_and_gives_the_same_batches(
    hospital: Hospital, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.tensor([1, 0, 1])
    loaded = items_of(hospital, dims).batch(index)
    monkeypatch.setattr(sites.training_set, "_KEEPING", {"cpu"})
    monkeypatch.setattr(sites.training_set, "room_on", lambda device: 2**40)
    kept = items_of(hospital, dims)
    first, again = kept.batch(index), kept.batch(index, mirrored=True)
    assert torch.equal(first.image, loaded.image)
    assert torch.equal(first.truth, loaded.truth)
    assert first.image.dtype == first.truth.dtype == torch.float32
    assert torch.equal(again.image, loaded.image.flip(2))
    items = kept._kept_items
    assert items is not None
    needed = sum(part.numel() for part in items)
    monkeypatch.setattr(sites.training_set, "room_on", lambda device: needed)  # a fifth of it is less than the set
    assert items_of(hospital, dims)._kept_items is None
