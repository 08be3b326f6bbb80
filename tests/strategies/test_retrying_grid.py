"""Hospitals that end and restart, on Flower's own state of nodes and messages."""

import threading
import time

import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from superlink import LONG_S, Answer, SuperLink, SuperNode

from fedserdiff.wire import Fault
from strategies.retrying_grid import RetryingGrid

SENDINGS = 4
AWAY_S = (0.0, 0.5)
"""The first is over before the grid looks again; in the second Flower tells it that the node is not there."""


def word(text: str) -> RecordDict:
    return RecordDict({"said": ConfigRecord({"word": text})})


def said(message: Message) -> str:
    return str(message.content.config_records["said"]["word"])


def to(node: SuperNode, text: str = "hello", ttl_s: float = LONG_S) -> Message:
    return Message(word(text), node.id, MessageType.TRAIN, ttl=ttl_s)


def echo(node: SuperNode, message: Message) -> RecordDict:
    return word(f"{said(message)} to you")


def ends_at_first(times: int, away_s: float) -> Answer:
    """A node whose process ends while it works on a message, so many times; then it answers."""

    def answer(node: SuperNode, message: Message) -> RecordDict | None:
        if len(node.seen) > times:
            return echo(node, message)
        node.start_anew(away_s)
        return None

    return answer


def leaves(node: SuperNode, message: Message) -> None:
    """A node whose process ends while it works on its first message, and which stays away."""
    node.end()


@pytest.fixture
def told() -> list[int]:
    """Nodes that the grid says it sent their message again."""
    return []


@pytest.fixture
def grid(link: SuperLink, told: list[int]) -> RetryingGrid:
    return RetryingGrid(link.grid, 0, lambda node, why: told.append(node))


def test_healthy_nodes_are_sent_their_message_once_and_each_answers_its_own(
    link: SuperLink, grid: RetryingGrid, told: list[int]
) -> None:
    nodes = [link.node(echo).start() for _ in range(3)]
    replies = list(grid.send_and_receive([to(node, f"hello {n}") for n, node in enumerate(nodes)], timeout=LONG_S))
    assert {reply.metadata.src_node_id: said(reply) for reply in replies} == {
        node.id: f"hello {n} to you" for n, node in enumerate(nodes)
    }
    assert len(replies) == 3
    assert [len(node.seen) for node in nodes] == [1, 1, 1]
    assert told == []


@pytest.mark.parametrize("away_s", AWAY_S)
def test_a_node_that_starts_anew_is_sent_its_message_again_and_its_answer_comes_once(
    link: SuperLink, grid: RetryingGrid, told: list[int], away_s: float
) -> None:
    node = link.node(ends_at_first(1, away_s)).start()
    (reply,) = grid.send_and_receive([to(node)], timeout=LONG_S)
    assert said(reply) == "hello to you"
    first, second = node.seen
    assert (said(second), second.metadata.message_type) == (said(first), first.metadata.message_type)
    assert second.metadata.ttl == first.metadata.ttl
    assert told == [node.id]


def test_one_nodes_restart_costs_the_others_nothing(link: SuperLink, grid: RetryingGrid, told: list[int]) -> None:
    """A node that has answered, and one that is still at work, are left in peace."""
    back = threading.Event()

    def ends_once(node: SuperNode, message: Message) -> RecordDict | None:
        if len(node.seen) > 1:
            back.set()
        return ends_at_first(1, 0.5)(node, message)

    def works_until_the_other_is_back(node: SuperNode, message: Message) -> RecordDict:
        assert back.wait(LONG_S)
        return echo(node, message)

    answers = (ends_once, works_until_the_other_is_back, echo)
    restarted, slow, quick = (link.node(answer).start() for answer in answers)
    replies = list(grid.send_and_receive([to(node) for node in (restarted, slow, quick)], timeout=LONG_S))
    assert sorted(reply.metadata.src_node_id for reply in replies) == sorted([restarted.id, slow.id, quick.id])
    assert [len(node.seen) for node in (restarted, slow, quick)] == [2, 1, 1]
    assert told == [restarted.id]


def test_a_node_that_stays_away_counts_as_not_answering_and_the_others_answers_are_kept(
    link: SuperLink, grid: RetryingGrid, told: list[int]
) -> None:
    gone, healthy = link.node(leaves).start(), link.node(echo).start()
    started = time.monotonic()
    replies = list(grid.send_and_receive([to(gone), to(healthy)], timeout=1.5))
    assert 1.5 <= time.monotonic() - started < 5
    assert [reply.metadata.src_node_id for reply in replies] == [healthy.id]
    assert not replies[0].has_error()
    assert told == []


def test_a_node_that_was_not_there_at_all_is_sent_its_message_when_it_comes(
    link: SuperLink, grid: RetryingGrid
) -> None:
    node = link.node(echo).start()
    node.end()
    threading.Timer(0.7, node.start).start()
    (reply,) = grid.send_and_receive([to(node)], timeout=LONG_S)
    assert said(reply) == "hello to you"
    assert len(node.seen) == 1


def test_a_node_that_ends_again_and_again_at_its_message_is_given_up(
    link: SuperLink, grid: RetryingGrid, told: list[int]
) -> None:
    node, healthy = link.node(ends_at_first(100, 0.3)).start(), link.node(echo).start()
    started = time.monotonic()
    replies = list(grid.send_and_receive([to(node), to(healthy)], timeout=LONG_S))
    assert time.monotonic() - started < LONG_S / 2, "nobody is left to wait for"
    assert [reply.metadata.src_node_id for reply in replies] == [healthy.id]
    assert len(node.seen) == SENDINGS
    assert told == [node.id] * (SENDINGS - 1)


def test_a_node_that_is_at_its_last_sending_is_still_heard(link: SuperLink, grid: RetryingGrid) -> None:
    node = link.node(ends_at_first(SENDINGS - 1, 0.0)).start()
    (reply,) = grid.send_and_receive([to(node)], timeout=LONG_S)
    assert said(reply) == "hello to you"


def test_a_fault_that_a_node_answers_is_its_answer(link: SuperLink, grid: RetryingGrid, told: list[int]) -> None:
    node = link.node(lambda node, message: Error(int(Fault.MEMORY), "MEMORY")).start()
    (reply,) = grid.send_and_receive([to(node)], timeout=LONG_S)
    assert reply.error.code == Fault.MEMORY
    assert len(node.seen) == 1
    assert told == []


def test_a_node_that_answers_twice_is_heard_once(link: SuperLink, grid: RetryingGrid) -> None:
    def twice(node: SuperNode, message: Message) -> RecordDict:
        node.reply(message, word("first"))
        return word("second")

    def slowly(node: SuperNode, message: Message) -> RecordDict:
        time.sleep(0.6)
        return echo(node, message)

    node, slow = link.node(twice).start(), link.node(slowly).start()
    replies = list(grid.send_and_receive([to(node), to(slow)], timeout=LONG_S))
    assert sorted(map(said, replies)) == ["first", "hello to you"]
    assert list(map(said, grid.send_and_receive([to(slow, "again")], timeout=LONG_S))) == ["again to you"]


def test_an_answer_to_an_old_round_is_not_taken_for_one_to_this(link: SuperLink, grid: RetryingGrid) -> None:
    """Neither where it comes beside the true one, nor alone: then its node did not answer."""

    def of_the_first_round(node: SuperNode, message: Message) -> RecordDict | None:
        if len(node.seen) == 1:
            return echo(node, message)
        node.reply(node.seen[0], word("stale"))
        return echo(node, message) if len(node.seen) == 2 else None

    node = link.node(of_the_first_round).start()
    assert list(map(said, grid.send_and_receive([to(node, "one")], timeout=LONG_S))) == ["one to you"]
    assert list(map(said, grid.send_and_receive([to(node, "two")], timeout=LONG_S))) == ["two to you"]
    assert list(grid.send_and_receive([to(node, "three")], timeout=1)) == []


def fails_at_first(times: int, error: int) -> Answer:
    """A node that answers a fault so many times, then as it should."""

    def answer(node: SuperNode, message: Message) -> RecordDict | Error:
        return Error(error, "") if len(node.seen) <= times else echo(node, message)

    return answer


@pytest.mark.parametrize("error", [Fault.MEMORY, Fault.INTERNAL, 0, 2])
def test_a_fault_that_may_pass_is_answered_by_the_same_message_and_the_reason_is_told(
    link: SuperLink, error: int
) -> None:
    told: list[tuple[int, str]] = []
    node, healthy = link.node(fails_at_first(2, int(error))).start(), link.node(echo).start()
    grid = RetryingGrid(link.grid, 2, lambda node, why: told.append((node, why)))
    replies = list(grid.send_and_receive([to(node), to(healthy)], timeout=LONG_S))
    assert sorted(map(said, replies)) == ["hello to you"] * 2
    assert [said(message) for message in node.seen] == ["hello"] * 3
    assert len(healthy.seen) == 1
    assert [who for who, _ in told] == [node.id] * 2
    assert f"(code {int(error)})" in told[0][1]


def test_a_fault_that_does_not_pass_is_the_answer_after_so_many_retries(link: SuperLink) -> None:
    node = link.node(fails_at_first(100, int(Fault.MEMORY))).start()
    (reply,) = RetryingGrid(link.grid, 2).send_and_receive([to(node)], timeout=LONG_S)
    assert reply.error.code == Fault.MEMORY
    assert len(node.seen) == 3


@pytest.mark.parametrize(
    "fault",
    [Fault.DATA, Fault.PROTOCOL, Fault.BLOCKED, Fault.EXPERIMENT, Fault.DIVERGED, Fault.GPU_MEMORY],
    ids=lambda f: f.name,
)
def test_a_fault_that_follows_from_data_or_message_is_the_answer_at_once(link: SuperLink, fault: Fault) -> None:
    node = link.node(fails_at_first(1, int(fault))).start()
    (reply,) = RetryingGrid(link.grid, 2).send_and_receive([to(node)], timeout=LONG_S)
    assert reply.error.code == fault
    assert len(node.seen) == 1


@pytest.mark.parametrize("away_s", AWAY_S)
def test_a_node_that_was_away_before_it_took_its_message_gets_one_copy(
    link: SuperLink, grid: RetryingGrid, away_s: float
) -> None:
    """Two would be two trainings, the first of which nobody waits for."""
    node = link.node(echo).start()
    node.pause()
    back = threading.Timer(0.1, node.start_anew, [away_s])
    back.start()
    assert [said(reply) for reply in grid.send_and_receive([to(node)], timeout=LONG_S)] == ["hello to you"]
    back.join()
    time.sleep(0.2)  # long enough to take what else there may be
    assert len(node.seen) == 1


def test_a_message_that_the_superlink_lost_is_sent_again(link: SuperLink, grid: RetryingGrid, told: list[int]) -> None:
    """As where an answer's upload is cut: Flower says so of a message not expired, of a node that is there."""

    def answer(node: SuperNode, message: Message) -> RecordDict:
        if len(node.seen) == 1:
            link.state.delete_messages({message.metadata.message_id})
        return echo(node, message)

    node = link.node(answer).start()
    replies = list(grid.send_and_receive([to(node)], timeout=5))
    assert [said(reply) for reply in replies] == ["hello to you"]
    assert told == [node.id]


def test_what_a_node_makes_of_the_copy_that_it_took_is_its_answer(link: SuperLink, grid: RetryingGrid) -> None:
    """It restarted unnoticed and took a message: it must not work for days on an answer that nobody expects."""

    def numbered(node: SuperNode, message: Message) -> RecordDict:
        copy = len(node.seen)
        time.sleep(0.6)
        return word(f"of copy {copy}")

    node = link.node(numbered).start()
    node.pause()
    threading.Timer(0.05, node.start_anew).start()
    (reply,) = grid.send_and_receive([to(node)], timeout=LONG_S)
    assert said(reply) == "of copy 1"


def test_a_message_that_expires_is_not_sent_anew_to_a_node_that_is_at_work_on_it(
    link: SuperLink, grid: RetryingGrid, told: list[int]
) -> None:
    """A coordinator makes its messages, as long-lived as it waits, a moment before they are sent."""
    node = link.node(lambda node, message: None).start()
    message = to(node, ttl_s=1)
    time.sleep(0.5)
    assert list(grid.send_and_receive([message], timeout=1)) == []
    assert len(node.seen) == 1
    assert told == []
