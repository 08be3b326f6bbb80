"""Attempts to get data out of a hospital, one by one: anything added to an honest reply stays inside."""

from pathlib import Path

import pytest
from attempts import ARRAYS, CONFIG, HASHES, HISTOGRAMS, NOT_FINITE, NUMBERS, RECORDS, STREAMS, Attempt, Change
from flwr.app import RecordDict
from guarded import SITE, ask_for, assert_fault, entries, honest_reply
from traffic import SECRET, TYPES, on_the_wire

from fedserdiff.wire import Fault
from sites.egress import Door


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "east", CONFIG, SITE)


def each(attempts: list[Attempt]) -> pytest.MarkDecorator:
    named = [pytest.param(kind, change, id=f"{kind}: {what}") for kind, what, change in attempts]
    return pytest.mark.parametrize(("message_type", "change"), named)


def assert_kept_inside(door: Door, message_type: str, content: RecordDict, fault: Fault) -> None:
    """The reply is a code, the ledger says that nothing left and why, and neither repeats what was attempted."""
    reply = ask_for(door, message_type, content)
    assert_fault(reply, fault)
    left = on_the_wire(reply)
    assert len(left) < 300
    assert SECRET.encode() not in left
    (entry,) = entries(door)
    assert (entry.verdict, entry.bytes, entry.message) == ("refused", 0, message_type)
    assert entry.reason
    assert "patient" not in entry.reason
    assert {record.name for record in entry.records} == set(content), "the ledger tells what was attempted"
    assert door.ledger.bytes_sent() == 0


@each(RECORDS + ARRAYS + STREAMS + HASHES + HISTOGRAMS + NUMBERS)
def test_what_was_not_agreed_is_blocked(door: Door, message_type: str, change: Change) -> None:
    content = honest_reply(door, message_type)
    change(content)
    assert repr(content) != repr(honest_reply(door, message_type)), "the attempt changes something"
    assert_kept_inside(door, message_type, content, Fault.BLOCKED)


@each(NOT_FINITE)
def test_what_is_not_finite_is_told_as_such_and_not_sent(door: Door, message_type: str, change: Change) -> None:
    content = honest_reply(door, message_type)
    change(content)
    assert_kept_inside(door, message_type, content, Fault.DIVERGED)


@pytest.mark.parametrize("message_type", TYPES)
def test_an_empty_reply_is_none(door: Door, message_type: str) -> None:
    assert_kept_inside(door, message_type, RecordDict(), Fault.BLOCKED)
