import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedserdiff.errors import FederationError
from fedserdiff.wire import from_levels, to_levels
from strategies.replay_bank import ReplayBank

SHAPE = (3, 4, 6)
IMAGES = {"images": ("float16", (4, 5, 6)), "masks": ("uint8", (3, 5, 6))}


def bank_of_maps() -> ReplayBank:
    return ReplayBank({"maps": ("int8", SHAPE)}, limit=5)


def maps(count: int, value: float = 0.0, shape: tuple[int, ...] = SHAPE) -> ArrayRecord:
    return ArrayRecord({"maps": Array(to_levels(torch.full((count, *shape), value)).numpy())})


def samples(images: int, masks: int) -> ArrayRecord:
    return ArrayRecord(
        {
            "images": Array(np.full((images, 4, 5, 6), images, np.float16)),
            "masks": Array(np.ones((masks, 3, 5, 6), np.uint8)),
        }
    )


def test_maps_survive_the_wire_to_half_a_level() -> None:
    original = torch.linspace(-1, 1, 3 * 4 * 6).reshape(1, *SHAPE)
    levels = to_levels(original)
    returned = from_levels(levels)
    assert levels.dtype == torch.int8
    assert returned.dtype == torch.float32
    assert float((returned - original).abs().max()) <= 0.5 / 127 + 1e-6
    assert float(returned.min()) == -1.0
    assert float(returned.max()) == 1.0


def test_maps_beyond_the_range_are_clipped_not_wrapped() -> None:
    assert from_levels(to_levels(torch.tensor([[2.0, -3.0]]))).tolist() == [[1.0, -1.0]]


def test_a_site_that_shares_again_replaces_its_maps_and_order_of_sites_is_kept() -> None:
    bank = bank_of_maps()
    assert len(bank) == 0
    bank.add("a", maps(2, 1.0))
    bank.add("b", maps(3, -1.0))
    bank.add("a", maps(1, 0.0))
    assert len(bank) == 4
    assert bank.to_record()["maps"].numpy()[:, 0, 0, 0].tolist() == [0, -127, -127, -127]


def test_images_and_masks_of_several_sites_stay_together() -> None:
    bank = ReplayBank(IMAGES, limit=5)
    bank.add("a", samples(2, 2))
    bank.add("b", samples(3, 3))
    record = bank.to_record()
    assert len(bank) == 5
    assert record["images"].numpy()[:, 0, 0, 0].tolist() == [2, 2, 3, 3, 3]
    assert record["masks"].numpy().shape == (5, 3, 5, 6)
    assert [str(record[name].numpy().dtype) for name in ("images", "masks")] == ["float16", "uint8"]


@pytest.mark.parametrize(
    "record",
    [
        maps(6),
        maps(1, shape=(3, 4, 7)),
        maps(0),
        ArrayRecord({"maps": Array(torch.zeros(1, *SHAPE).numpy())}),
        ArrayRecord({"scan": Array(torch.zeros(1, *SHAPE, dtype=torch.int8).numpy())}),
        ArrayRecord({**maps(1), "scan": Array(torch.zeros(1, *SHAPE, dtype=torch.int8).numpy())}),
        ArrayRecord({"maps": Array(np.array(1, np.int8))}),
        ArrayRecord({}),
    ],
    ids=["too many", "another shape", "none", "float", "another name", "one name more", "a single number", "empty"],
)
def test_what_was_not_agreed_is_refused(record: ArrayRecord) -> None:
    bank = bank_of_maps()
    bank.add("b", maps(2))
    with pytest.raises(FederationError, match=r"^a shared "):
        bank.add("a", record)
    assert len(bank) == 2


@pytest.mark.parametrize(("images", "masks"), [(2, 3), (6, 6), (0, 0)])
def test_images_without_their_masks_are_refused(images: int, masks: int) -> None:
    bank = ReplayBank(IMAGES, limit=5)
    with pytest.raises(FederationError, match=r"^a shared \[.*\] samples; from 1 to 5 were agreed"):
        bank.add("a", samples(images, masks))
    assert len(bank) == 0
