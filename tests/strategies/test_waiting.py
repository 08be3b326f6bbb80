"""How long the coordinator waits for a site: time spent on its introduction does not count as absence."""

import io
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from rich.console import Console
from superlink import SuperLink, SuperNode
from test_roster import CONFIG, EAST, KEYS, NORTH, Heard, introduction, join

from fedserdiff.errors import FederationError
from fedserdiff.report.live import LiveView
from strategies.retrying_grid import RetryingGrid
from strategies.roster import Roster

AWAY_S, AT_WORK_S = 120.0, 3600.0


class Clock:
    """Time that passes as it is slept, and in which something happens; nodes get a moment of the real one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.at: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.002)
        self.now += max(seconds, 5.0)
        for moment, happens in list(self.at):
            if self.now >= moment:
                self.at.remove((moment, happens))
                happens()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("strategies.roster.time", clock)
    return clock


@pytest.fixture
def heard() -> Heard:
    return Heard()


def make_roster(
    link: SuperLink, heard: Heard, keys: Mapping[str, bytes] | None = KEYS, ttl_s: float = AT_WORK_S
) -> Roster:
    config = CONFIG.replace({"machine.site_timeout_s": AWAY_S, "machine.stage_timeout_s": ttl_s})
    return Roster(RetryingGrid(link.grid), config, heard, keys)


def silent(node: SuperNode, message: Message) -> None:
    """Take a message and never answer it."""


class Preparing:
    """Answers once its cases are ready."""

    def __init__(self, site: int) -> None:
        self._site = site
        self.ready = threading.Event()

    def __call__(self, node: SuperNode, message: Message) -> RecordDict:
        assert self.ready.wait(30)
        return introduction(self._site)


@pytest.mark.parametrize("keys", [KEYS, None], ids=["keys", "no keys"])
def test_a_site_that_prepares_for_longer_than_it_may_be_away_is_taken_in(
    link: SuperLink, heard: Heard, clock: Clock, keys: Mapping[str, bytes] | None
) -> None:
    preparing = Preparing(1)
    east = join(link, EAST, preparing)
    clock.at.append((10 * AWAY_S, preparing.ready.set))
    assert make_roster(link, heard, keys, ttl_s=1e6).wait_for([EAST]) == {EAST: east.id}
    assert clock.now >= 10 * AWAY_S
    assert heard.prepares == [([EAST], 1)], "told once, not at every look"
    assert heard.waited_for == []


@pytest.mark.parametrize("keys", [KEYS, None], ids=["keys", "no keys"])
def test_a_site_that_never_connects_is_given_up(
    link: SuperLink, heard: Heard, clock: Clock, keys: Mapping[str, bytes] | None
) -> None:
    with pytest.raises(FederationError, match=r"^waited 120 s for east: no such site appeared$"):
        make_roster(link, heard, keys).wait_for([EAST])
    assert AWAY_S < clock.now < 2 * AWAY_S
    assert (heard.waited_for, heard.prepares) == ([[EAST]], [])


@pytest.mark.parametrize("keys", [KEYS, None], ids=["keys", "no keys"])
def test_a_site_that_stays_connected_and_silent_is_given_up_when_its_message_would_expire(
    link: SuperLink, heard: Heard, clock: Clock, keys: Mapping[str, bytes] | None
) -> None:
    join(link, EAST, silent)
    says = r"^east: was connected and did not introduce itself within 3600 s$"
    with pytest.raises(FederationError, match=says):
        make_roster(link, heard, keys).wait_for([EAST])
    assert AT_WORK_S < clock.now < AT_WORK_S + AWAY_S


def test_where_cases_are_prepared_already_a_silent_site_is_away(link: SuperLink, heard: Heard, clock: Clock) -> None:
    """As a simulation's are: a worker that hangs is not waited for as long as one that prepares."""
    join(link, EAST, silent)
    config = CONFIG.replace({"machine.site_timeout_s": AWAY_S, "machine.stage_timeout_s": AT_WORK_S})
    roster = Roster(RetryingGrid(link.grid), config, heard, None, prepared=True)
    with pytest.raises(FederationError, match=r"^waited 120 s for east: no such site appeared$"):
        roster.wait_for([EAST])
    assert clock.now < 2 * AWAY_S


def test_an_introduction_that_flower_lets_expire_is_named_as_that(link: SuperLink, heard: Heard) -> None:
    node = join(link, EAST, silent)
    says = f"^node {node.id} was connected and did not introduce itself within 1 s$"
    with pytest.raises(FederationError, match=says):
        make_roster(link, heard, None, ttl_s=1).wait_for([EAST])


def test_a_site_that_leaves_while_it_is_awaited_is_away_from_then_on(
    link: SuperLink, heard: Heard, clock: Clock
) -> None:
    east = join(link, EAST, silent)
    clock.at.append((5 * AWAY_S, east.end))
    with pytest.raises(FederationError, match=r"^waited 120 s for east: no such site appeared$"):
        make_roster(link, heard).wait_for([EAST])
    assert 6 * AWAY_S < clock.now < 7 * AWAY_S
    assert (heard.prepares, heard.waited_for) == ([([EAST], 1)], [[EAST]])


def test_with_keys_one_site_s_work_excuses_no_other(link: SuperLink, heard: Heard, clock: Clock) -> None:
    join(link, EAST, silent)
    with pytest.raises(FederationError, match=r"^waited 120 s for north: no such site appeared$"):
        make_roster(link, heard).wait_for([NORTH, EAST])
    assert heard.waited_for == [[NORTH]]
    assert heard.prepares == [([EAST], 1)]


def test_the_person_reads_who_is_at_work_and_who_is_away(link: SuperLink, clock: Clock, tmp_path: Path) -> None:
    join(link, EAST, silent)
    console = Console(file=io.StringIO(), width=120)
    config = CONFIG.replace({"machine.site_timeout_s": AWAY_S, "machine.stage_timeout_s": AT_WORK_S})
    roster = Roster(RetryingGrid(link.grid), config, LiveView(console, tmp_path), KEYS)
    with pytest.raises(FederationError):
        roster.wait_for([NORTH, EAST])
    assert console.file.getvalue().splitlines() == [
        "waiting for north (up to 120 s)",
        "waiting for east: it is connected and prepares its cases",
    ]
    LiveView(console, tmp_path).preparing(["north", "east", "west"], 2)
    assert console.file.getvalue().endswith("east, west: 2 of them are connected and prepare their cases\n")
