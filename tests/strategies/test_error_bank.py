import pytest
import torch
from flwr.app import Array, ArrayRecord

from fedserdiff import wire
from fedserdiff.errors import FederationError
from strategies.error_bank import ErrorBank

SHAPE = (3, 4, 6)


def maps(count: int, value: float) -> ArrayRecord:
    return wire.maps_to_record(torch.full((count, *SHAPE), value))


def test_maps_survive_the_wire_to_half_a_level() -> None:
    original = torch.linspace(-1, 1, 3 * 4 * 6).reshape(1, *SHAPE)
    returned = wire.record_to_maps(wire.maps_to_record(original))
    assert float((returned - original).abs().max()) <= 0.5 / 127 + 1e-6
    assert float(returned.min()) == -1.0
    assert float(returned.max()) == 1.0


def test_maps_beyond_the_range_are_clipped_not_wrapped() -> None:
    returned = wire.record_to_maps(wire.maps_to_record(torch.tensor([[2.0, -3.0]])))
    assert returned.tolist() == [[1.0, -1.0]]


def test_a_site_that_shares_again_replaces_its_maps_and_order_of_sites_is_kept() -> None:
    bank = ErrorBank(SHAPE, limit=5)
    assert len(bank) == 0
    bank.add("a", maps(2, 1.0))
    bank.add("b", maps(3, -1.0))
    bank.add("a", maps(1, 0.0))
    assert len(bank) == 4
    assert wire.record_to_maps(bank.to_record())[:, 0, 0, 0].tolist() == [0.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    "record",
    [
        wire.maps_to_record(torch.zeros(6, *SHAPE)),
        wire.maps_to_record(torch.zeros(1, 3, 4, 7)),
        wire.maps_to_record(torch.zeros(0, *SHAPE)),
        ArrayRecord({"maps": Array(torch.zeros(1, *SHAPE).numpy())}),
        ArrayRecord({"scan": Array(torch.zeros(1, *SHAPE, dtype=torch.int8).numpy())}),
    ],
    ids=["too many", "another shape", "none", "float", "another name"],
)
def test_what_was_not_agreed_is_refused(record: ArrayRecord) -> None:
    bank = ErrorBank(SHAPE, limit=5)
    with pytest.raises(FederationError):
        bank.add("a", record)
    assert len(bank) == 0
