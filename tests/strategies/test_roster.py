"""Identities: nodes with real keys on Flower's own state, and their introductions."""

import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray
from superlink import Answer, SuperLink, SuperNode
from traffic import SECRET, hashes, honest

from fedserdiff import wire
from fedserdiff.deployment.certificates import make_node_key, node_key_bytes
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from strategies.overlap import SharedScans
from strategies.retrying_grid import RetryingGrid
from strategies.roster import Roster

NORTH, EAST, WEST = SITES = ("north", "east", "west")
CONFIG = make_settings(
    "smoke",
    {"machine.site_timeout_s": 1, "machine.stage_timeout_s": 20},
    sites=tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES),
)
KEYS = {name: node_key_bytes(make_node_key()[1]) for name in SITES}


class Heard(RunEvents):
    def __init__(self) -> None:
        self.turned_away: list[tuple[str, str]] = []
        self.waited_for: list[list[str]] = []
        self.prepares: list[tuple[list[str], int]] = []
        self.again: list[tuple[str, str]] = []
        self.on_waiting: Callable[[], object] = lambda: None

    def site_turned_away(self, who: str, why: str) -> None:
        self.turned_away.append((who, why))

    def sent_again(self, site: str, why: str) -> None:
        self.again.append((site, why))

    def waiting(self, sites: object, timeout_s: float) -> None:
        assert isinstance(sites, list)
        self.waited_for.append(sites)
        self.on_waiting()

    def preparing(self, sites: object, connected: int) -> None:
        assert isinstance(sites, list)
        self.prepares.append((sites, connected))
        self.on_waiting()


@pytest.fixture
def heard() -> Heard:
    return Heard()


def make_roster(
    link: SuperLink, heard: Heard, keys: Mapping[str, bytes] | None = KEYS, site_timeout_s: float = 1
) -> Roster:
    return Roster(RetryingGrid(link.grid), CONFIG.replace({"machine.site_timeout_s": site_timeout_s}), heard, keys)


def introduction(site: int) -> RecordDict:
    return honest(MessageType.QUERY, CONFIG, ArrayRecord(), site)


def hospital(site: int) -> Answer:
    return lambda node, message: introduction(site)


def one_after_another(*answers: RecordDict | Error) -> Answer:
    return lambda node, message: answers[len(node.seen) - 1]


def join(link: SuperLink, site: str, answer: Answer | None = None) -> SuperNode:
    """Start the node that holds a site's key."""
    return link.node(answer or hospital(SITES.index(site)), KEYS[site]).start()


def test_sites_are_known_by_their_keys_whatever_order_they_come_in(link: SuperLink, heard: Heard) -> None:
    told: dict[str, RecordDict] = {}
    roster = Roster(RetryingGrid(link.grid), CONFIG, heard, KEYS, told.__setitem__)
    west, north = join(link, WEST), join(link, NORTH)
    assert roster.wait_for([NORTH, WEST]) == {NORTH: north.id, WEST: west.id}
    assert roster.cases == {site: {"training": 10, "test": 5} for site in (NORTH, WEST)}
    assert told == {NORTH: introduction(0), WEST: introduction(2)}
    assert roster.name(west.id) == WEST
    assert roster.name(123) == "node 123"
    for node in (north, west):
        (asked,) = node.seen
        salted = ConfigRecord({"experiment": CONFIG.fingerprint, "salt": roster.scans.salt})
        assert asked.content == {wire.CONFIG: salted}
    east = join(link, EAST)
    assert roster.meet() == {NORTH: north.id, EAST: east.id, WEST: west.id}
    assert [len(node.seen) for node in (north, west)] == [1, 1], "who is known is not asked again"
    assert heard.turned_away == []


def test_sites_tell_how_many_validation_cases_they_score_where_those_are_scored(link: SuperLink, heard: Heard) -> None:
    config = CONFIG.replace({"scoring.patients": "validation", "data.validation_share": 0.2})
    roster = Roster(RetryingGrid(link.grid), config, heard, KEYS)

    def telling(site: int, scored: str) -> Answer:
        counts = MetricRecord({"site": site, "training-cases": 10, f"{scored}-cases": 15})
        return lambda node, message: RecordDict({**introduction(site), wire.SITE: counts})

    join(link, EAST, telling(1, "validation"))
    join(link, WEST, telling(2, "test"))
    roster.meet()
    assert roster.cases == {EAST: {"training": 10, "validation": 15}}
    assert heard.turned_away == [(WEST, "introduced itself out of protocol")]


def test_hashes_that_sites_told_settle_what_is_left_out_whoever_comes_first(link: SuperLink, heard: Heard) -> None:
    """WEST comes first and has two scans of NORTH's and one of EAST's; what it leaves out waits for both of them."""
    own = {NORTH: TOLD[:5], EAST: TOLD[5:10], WEST: TOLD[[1, 3, 7, 15, 16]]}

    def telling_own(site: str) -> Answer:
        scans = ArrayRecord({"hashes": Array(own[site])})
        return lambda node, message: RecordDict({**introduction(SITES.index(site)), wire.SCANS: scans})

    scans = SharedScans(CONFIG)
    roster = Roster(RetryingGrid(link.grid), CONFIG, heard, KEYS, scans=scans)
    for site, unsettled in ((WEST, [NORTH, EAST, WEST]), (NORTH, [EAST, WEST]), (EAST, [])):
        node = join(link, site, telling_own(site))
        assert site in roster.meet()
        assert [other for other in SITES if not scans.settled(other)] == unsettled
        (asked,) = node.seen
        assert asked.content.config_records[wire.CONFIG]["salt"] == scans.salt
    assert scans.counts() == {NORTH: 0, EAST: 0, WEST: 3}
    assert scans.record_for(NORTH) == scans.record_for(EAST) == {}
    np.testing.assert_array_equal(scans.record_for(WEST)[wire.LEFT_OUT]["hashes"].numpy(), TOLD[[1, 3, 7]])


def test_where_overlap_is_allowed_no_site_is_asked_for_hashes(link: SuperLink, heard: Heard) -> None:
    config = CONFIG.replace({"data.allow_overlap": True})
    roster = Roster(RetryingGrid(link.grid), config, heard, KEYS)
    only = RecordDict({wire.SITE: about()[wire.SITE]})
    east = join(link, EAST, lambda node, message: only)
    west = join(link, WEST, lambda node, message: introduction(2))
    assert roster.meet() == {EAST: east.id}
    assert heard.turned_away == [(WEST, "introduced itself out of protocol")], "hashes were not agreed"
    for node in (east, west):
        (asked,) = node.seen
        assert asked.content == {wire.CONFIG: ConfigRecord({"experiment": config.fingerprint})}


def test_a_node_whose_key_belongs_to_no_site_is_never_addressed_and_is_told_of_once(
    link: SuperLink, heard: Heard
) -> None:
    roster = make_roster(link, heard)
    stranger = link.node(hospital(1), node_key_bytes(make_node_key()[1])).start()
    with pytest.raises(FederationError, match=r"^waited 1 s for east: no such site appeared$"):
        roster.wait_for([EAST])
    north = join(link, NORTH)
    assert roster.meet() == {NORTH: north.id}
    assert heard.turned_away == [(f"node {stranger.id}", "its key belongs to no site")]
    assert stranger.seen == []


def test_a_site_that_claims_to_be_another_is_turned_away_until_it_is_started_anew(
    link: SuperLink, heard: Heard
) -> None:
    roster = make_roster(link, heard)
    north, west = join(link, NORTH), join(link, WEST, one_after_another(introduction(0), introduction(2)))
    assert roster.meet() == {NORTH: north.id}
    assert roster.meet() == {NORTH: north.id}
    assert heard.turned_away == [(WEST, "claims to be north, whose key it does not hold")]
    assert len(west.seen) == 1
    west.start_anew()
    assert roster.wait_for([WEST]) == {WEST: west.id}
    assert len(west.seen) == 2
    assert len(heard.turned_away) == 1


def test_an_impostor_that_comes_first_does_not_keep_the_real_site_out(link: SuperLink, heard: Heard) -> None:
    roster = make_roster(link, heard)
    join(link, WEST, hospital(0))
    assert roster.meet() == {}
    north = join(link, NORTH)
    assert roster.wait_for([NORTH]) == {NORTH: north.id}


@pytest.mark.parametrize("restarted", [False, True])
def test_who_is_missing_is_named_with_the_last_reason(link: SuperLink, heard: Heard, restarted: bool) -> None:
    roster = make_roster(link, heard)
    join(link, NORTH)
    west = join(link, WEST, one_after_another(introduction(0), Error(int(Fault.DATA), SECRET)))
    roster.meet()
    if restarted:
        west.start_anew()
    with pytest.raises(FederationError, match=r"^waited 1 s for east, west: no such site appeared \(west ") as caught:
        roster.wait_for(SITES)
    claimed = "claims to be north, whose key it does not hold"
    reason = "answered DATA (code 210), its own log says why" if restarted else claimed
    assert str(caught.value).endswith(f"(west {reason})")
    assert heard.waited_for == [[EAST, WEST]], "told once, not at every look"


def test_a_site_of_another_experiment_is_turned_away_and_told_what_that_means(link: SuperLink, heard: Heard) -> None:
    join(link, EAST, lambda node, message: Error(int(Fault.EXPERIMENT), SECRET))
    with pytest.raises(FederationError, match="another experiment, or another version of this software") as caught:
        make_roster(link, heard).wait_for([EAST])
    ((who, why),) = heard.turned_away
    assert who == EAST
    assert why.startswith("answered EXPERIMENT (code 215), it was given another experiment")
    assert SECRET not in str(caught.value) + why


def about(**numbers: int | float | list[int]) -> RecordDict:
    site = MetricRecord({"site": 1, "training-cases": 10, "test-cases": 5, **numbers})
    return RecordDict({wire.SITE: site, wire.SCANS: hashes(1)})


def telling(rows: NDArray[np.generic]) -> RecordDict:
    return RecordDict({**about(), wire.SCANS: ArrayRecord({"hashes": Array(rows)})})


TOLD = hashes(1)["hashes"].numpy()
WORDS = {"site": "1", "training-cases": SECRET, "test-cases": "5"}

MALFORMED = {
    "text": RecordDict({wire.SITE: ConfigRecord({**WORDS}), wire.SCANS: hashes(1)}),
    "text besides": RecordDict({**about(), "more": ConfigRecord({"why": SECRET})}),
    "nothing": RecordDict(),
    "an empty record": RecordDict({wire.SITE: MetricRecord(), wire.SCANS: hashes(1)}),
    "no hashes": RecordDict({wire.SITE: about()[wire.SITE]}),
    "as many hashes as scans": telling(TOLD[:17]),
    "hashes in the order of scans": telling(TOLD[::-1].copy()),
    "a hash a second time": telling(TOLD[[0, *range(19)]]),
    "short hashes": telling(TOLD[:, :8].copy()),
    "hashes of another type": telling(TOLD.astype(np.float64)),
    "exact counts": about(**{"training-cases": 11}),
    "no test cases": about(**{"test-cases": 0}),
    "huge counts": about(**{"training-cases": 10**12}),
    "fractional counts": about(**{"training-cases": 10.0}),
    "another number besides": about(age=45),
    "a negative site": about(site=-1),
    "a site far off": about(site=3),
    "a huge site": about(site=2**62),
    "a fractional site": about(site=1.0),
    "a list of sites": about(site=[1]),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_an_introduction_out_of_protocol_is_turned_away_and_not_repeated(
    link: SuperLink, heard: Heard, content: RecordDict
) -> None:
    roster = make_roster(link, heard)
    join(link, EAST, lambda node, message: content)
    assert roster.meet() == {}
    assert heard.turned_away == [(EAST, "introduced itself out of protocol")]
    assert roster.cases == {}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_without_keys_an_introduction_out_of_protocol_ends_the_run(
    link: SuperLink, heard: Heard, content: RecordDict
) -> None:
    node = link.node(lambda node, message: content).start()
    with pytest.raises(FederationError, match=f"^node {node.id} introduced itself out of protocol$"):
        make_roster(link, heard, keys=None).meet()


def test_without_keys_nodes_are_what_they_say_and_a_second_claim_ends_the_run(link: SuperLink, heard: Heard) -> None:
    roster = make_roster(link, heard, keys=None)
    north, east = link.node(hospital(0)).start(), link.node(hospital(1)).start()
    assert roster.wait_for([NORTH, EAST]) == {NORTH: north.id, EAST: east.id}
    second = link.node(hospital(1)).start()
    with pytest.raises(FederationError, match=f"^nodes {east.id} and {second.id} both claim to be east$"):
        roster.meet()
    assert heard.turned_away == []


def test_without_keys_a_fault_ends_the_run(link: SuperLink, heard: Heard) -> None:
    node = link.node(lambda node, message: Error(int(Fault.DATA), SECRET)).start()
    with pytest.raises(FederationError, match=rf"^node {node.id} answered DATA \(code 210\), its own log says why$"):
        make_roster(link, heard, keys=None).meet()


@pytest.mark.parametrize("keys", [KEYS, None], ids=["keys", "no keys"])
def test_a_fault_that_may_pass_is_asked_about_again(
    link: SuperLink, heard: Heard, keys: Mapping[str, bytes] | None
) -> None:
    """A simulation's worker is killed, a hospital's memory was full: neither ends the run."""
    killed = Error(0, SECRET)
    node = join(link, "north", one_after_another(killed, Error(int(Fault.MEMORY), SECRET), introduction(0)))
    assert make_roster(link, heard, keys).meet() == {"north": node.id}
    assert len(node.seen) == 3
    assert heard.turned_away == []
    assert [why for _, why in heard.again] == [
        "lost its worker's process, which was killed or ran out of memory (code 0)",
        "answered MEMORY (code 212), its own log says why",
    ]


def test_a_fault_that_does_not_pass_is_told_after_so_many_retries(link: SuperLink, heard: Heard) -> None:
    node = link.node(lambda node, message: Error(int(Fault.MEMORY), SECRET)).start()
    with pytest.raises(FederationError, match=rf"^node {node.id} answered MEMORY"):
        make_roster(link, heard, keys=None).meet()
    assert len(node.seen) == 1 + CONFIG.machine.retries


def test_a_known_site_that_went_away_is_waited_for_and_not_asked_again(link: SuperLink, heard: Heard) -> None:
    roster = make_roster(link, heard, site_timeout_s=30)
    north, east = join(link, NORTH), join(link, EAST)
    roster.wait_for([NORTH, EAST])
    east.end()
    assert roster.meet() == {NORTH: north.id}
    heard.on_waiting = threading.Timer(0.2, east.start).start
    assert roster.wait_for([NORTH, EAST]) == {NORTH: north.id, EAST: east.id}
    assert heard.waited_for == [[EAST]]
    assert [len(node.seen) for node in (north, east)] == [1, 1]


def test_a_site_that_was_taken_and_stays_away_is_missed_without_old_reproaches(link: SuperLink, heard: Heard) -> None:
    roster = make_roster(link, heard)
    west = join(link, WEST, one_after_another(introduction(0), introduction(2)))
    roster.meet()
    west.start_anew()
    roster.wait_for([WEST])
    west.end()
    with pytest.raises(FederationError, match=r"^waited 1 s for west: no such site appeared$"):
        roster.wait_for([WEST])


def test_a_site_that_starts_anew_while_it_is_asked_is_asked_again(link: SuperLink, heard: Heard) -> None:
    """A hospital prepares its cases before it introduces itself, which takes long enough to be interrupted."""

    def interrupted(node: SuperNode, message: Message) -> RecordDict | None:
        if len(node.seen) > 1:
            return introduction(1)
        node.start_anew(0.3)
        return None

    east = join(link, EAST, interrupted)
    assert make_roster(link, heard).wait_for([EAST]) == {EAST: east.id}
    assert heard.turned_away == []


def test_a_site_that_leaves_before_it_introduced_itself_does_not_hold_up_the_others(
    link: SuperLink, heard: Heard
) -> None:
    """An introduction may take as long as a stage, a week by default: those who are there need not wait that long."""
    roster = Roster(
        RetryingGrid(link.grid),
        CONFIG.replace({"machine.site_timeout_s": 1, "machine.stage_timeout_s": 5}),
        heard,
        KEYS,
    )
    north = join(link, NORTH)
    join(link, EAST, lambda node, message: node.end())
    started = time.monotonic()
    assert roster.wait_for([NORTH]) == {NORTH: north.id}
    assert time.monotonic() - started < 4


def test_a_site_that_takes_long_to_introduce_itself_is_asked_once_and_taken_in_when_it_has(
    link: SuperLink, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategies.roster._INTRODUCTION_S", 0.3)  # half a minute would be long for a test
    prepared = threading.Event()

    def prepares(node: SuperNode, message: Message) -> RecordDict:
        assert prepared.wait(30)
        return introduction(1)

    roster = make_roster(link, heard, site_timeout_s=30)
    north, east = join(link, NORTH), join(link, EAST, prepares)
    assert roster.wait_for([NORTH]) == {NORTH: north.id}
    assert roster.meet() == {NORTH: north.id}
    heard.on_waiting = prepared.set
    assert roster.wait_for([EAST]) == {EAST: east.id}
    assert [len(node.seen) for node in (north, east)] == [1, 1]
    assert heard.turned_away == []
