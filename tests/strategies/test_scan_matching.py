"""Which site leaves out which scans: decided by order of arrival, and not by the order or route of the hashes."""

import itertools
import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from strategies.overlap import SharedScans

SITES = ("south", "north", "east", "west")  # not in the order of the alphabet


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", changes, sites=tuple(Site(name, "brats2021", "") for name in SITES))


def rows(scans: Iterable[int]) -> NDArray[np.uint8]:
    """A row for each scan, which holds its number."""
    return np.array([[0] * 31 + [scan] for scan in scans], np.uint8).reshape(-1, 32)


def scans_of(hashes: NDArray[np.uint8]) -> list[int]:
    assert hashes.dtype == np.uint8
    assert hashes.shape == (len(hashes), 32)
    return [int(row[31]) for row in hashes]


def told(own: Sequence[Iterable[int]], order: Sequence[int] = range(4)) -> SharedScans:
    scans = SharedScans(smoke())
    for place in order:
        scans.add(SITES[place], rows(own[place]))
    return scans


OWN = ([1, 2, 3], [9, 4, 2], [8, 7], [4, 2, 7, 6])


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_each_scan_stays_with_the_first_site_in_order_of_arrival_whoever_told_first(order: Sequence[int]) -> None:
    scans = told(OWN, order)
    assert [scans_of(scans.left_out(site)) for site in SITES] == [[], [2], [], [2, 4, 7]]
    assert scans.counts() == {"south": 0, "north": 1, "east": 0, "west": 3}


def test_any_federation_is_sorted_out_as_by_looking_at_every_pair() -> None:
    drawn = random.Random(0)
    for _ in range(200):
        own = [drawn.sample(range(30), drawn.randint(0, 12)) for _ in SITES]
        scans = told(own)
        for place, site in enumerate(SITES):
            expected = [s for s in sorted(own[place]) if any(s in other for other in own[:place])]
            assert scans_of(scans.left_out(site)) == expected


def test_a_site_that_leaves_a_scan_out_has_brought_it_all_the_same() -> None:
    """EAST's patient 5 is SOUTH's 1 by another scan that NORTH knows: north's row 5 leads there."""
    scans = told(([1], [1, 5], [5], []))
    assert [scans_of(scans.left_out(site)) for site in SITES] == [[], [1], [5], []]


def test_a_site_is_settled_when_it_and_all_before_it_have_told() -> None:
    scans = SharedScans(smoke())
    assert scans.awaited(["south"]) == ["south"]
    scans.add("east", rows([1]))
    assert not scans.settled("east")
    assert scans.awaited(["east"]) == ["south", "north"]
    assert scans.awaited(["west", "south"]) == ["south", "north", "west"]
    assert scans.awaited([]) == []
    scans.add("south", rows([1, 2]))
    assert scans.settled("south")
    assert not scans.settled("east")
    assert scans.counts() == {"south": 0}
    with pytest.raises(ValueError, match=r"^what east leaves out is not known before north sent hashes$"):
        scans.record_for("east")
    scans.add("north", rows([3]))
    assert scans.settled("east")
    assert not scans.settled("west")
    assert scans_of(scans.left_out("east")) == [1]


def test_an_order_names_what_is_left_out_and_by_which_salt_and_holds_nothing_where_that_is_none() -> None:
    scans = told(OWN)
    assert scans.record_for("south") == {}
    (name,) = record = scans.record_for("west")
    assert name == wire.LEFT_OUT == "left-out"
    assert {key: array.numpy().tolist() for key, array in record[name].items()} == {
        "hashes": rows([2, 4, 7]).tolist(),
        "salt": list(scans.salt),
    }


def test_what_a_site_told_first_counts() -> None:
    """A later site has settled by it, and refuses any other set."""
    scans = told(OWN)
    scans.add("south", rows([4]))
    assert scans_of(scans.left_out("west")) == [2, 4, 7]
    assert scans_of(scans.left_out("north")) == [2]


def test_every_run_draws_a_salt_of_its_own() -> None:
    salts = [SharedScans(smoke()).salt for _ in range(20)]
    assert {len(salt) for salt in salts} == {16}
    assert len(set(salts)) == 20
    scans = SharedScans(smoke())
    assert scans.question() == {"salt": scans.salt}


def test_a_run_that_goes_on_knows_what_was_told_by_sites_that_do_not_come_back() -> None:
    before = told(OWN, order=[0, 1, 3])
    after = SharedScans(smoke())
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.salt == before.salt
    assert after.settled("north")
    assert after.awaited(["west"]) == ["east"]
    after.add("east", rows(OWN[2]))
    after.add("south", rows([30]))  # by the same salt, but other decoys
    assert [scans_of(after.left_out(site)) for site in SITES] == [[], [2], [], [2, 4, 7]]


def test_a_run_that_goes_on_from_before_anybody_came_asks_by_the_same_salt() -> None:
    before, after = SharedScans(smoke()), SharedScans(smoke())
    after.load_state_dict(before.state_dict())
    assert after.question() == before.question()
    assert after.awaited(["south"]) == ["south"]


def test_where_overlap_is_allowed_nobody_is_asked_or_awaited() -> None:
    scans = SharedScans(smoke(**{"data.allow_overlap": True}))
    assert scans.question() == {}
    assert scans.awaited(SITES) == []
    assert all(scans.settled(site) and scans.record_for(site) == {} for site in SITES)
    assert scans.counts() == dict.fromkeys(SITES, 0)
