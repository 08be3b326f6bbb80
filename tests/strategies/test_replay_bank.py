"""The replay bank. Its samples were checked on arrival: see tests/test_reply_schema.py."""

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from traffic import values_of

from fedserdiff.wire import from_levels, to_levels
from strategies.replay_bank import ReplayBank

SHAPE = (3, 4, 6)


def maps(count: int, value: float = 0.0) -> ArrayRecord:
    return ArrayRecord({"maps": Array(to_levels(torch.full((count, *SHAPE), value)).numpy())})


def samples(count: int) -> ArrayRecord:
    return ArrayRecord(
        {
            "images": Array(np.full((count, 4, 5, 6), count, np.float16)),
            "masks": Array(np.full((count, 3, 5, 6), count % 2, np.uint8)),
        }
    )


def test_maps_survive_the_wire_to_half_a_level() -> None:
    original = torch.linspace(-1, 1, 3 * 4 * 6).reshape(1, *SHAPE)
    levels = to_levels(original)
    returned = from_levels(levels)
    assert levels.dtype == torch.int8
    assert returned.dtype == torch.float32
    assert float((returned - original).abs().max()) <= 0.5 / 15 + 1e-6
    assert float(returned.min()) == -1.0
    assert float(returned.max()) == 1.0


def test_maps_beyond_the_range_are_clipped_not_wrapped() -> None:
    assert from_levels(to_levels(torch.tensor([[2.0, -3.0]]))).tolist() == [[1.0, -1.0]]


def test_a_site_that_shares_again_replaces_its_maps_and_order_of_sites_is_kept() -> None:
    bank = ReplayBank()
    assert len(bank) == 0
    bank.add("a", maps(2, 1.0))
    bank.add("b", maps(3, -1.0))
    bank.add("a", maps(1, 0.0))
    assert len(bank) == 4
    assert values_of(bank.to_record()["maps"])[:, 0, 0, 0].tolist() == [0, -15, -15, -15]


def test_images_and_masks_of_several_sites_stay_together() -> None:
    bank = ReplayBank()
    bank.add("a", samples(2))
    bank.add("b", samples(3))
    record = bank.to_record()
    assert len(bank) == 5
    assert record["images"].numpy()[:, 0, 0, 0].tolist() == [2, 2, 3, 3, 3]
    masks = values_of(record["masks"])
    assert masks.shape == (5, 3, 5, 6)
    assert masks[:, 2, 4, 5].tolist() == [0, 0, 1, 1, 1]
    assert [(record[name].dtype, record[name].stype) for name in ("images", "masks")] == [
        ("float16", "numpy.ndarray"),
        ("uint8", "bz2"),
    ]


def test_a_bank_of_saved_samples_sends_what_the_first_did() -> None:
    bank = ReplayBank()
    bank.add("b", samples(2))
    bank.add("a", samples(1))
    assert ReplayBank(bank.samples).to_record() == bank.to_record()
