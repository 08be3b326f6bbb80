"""A handler can change the message that it answers: this must not affect what may leave, and to whom."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MessageType
from guarded import SITE, Handler, ask, assert_fault, context, honest_reply, make_app, smoke, student
from traffic import COORDINATOR, GROUP, SECRET, change, moved, on_the_wire, order

from fedserdiff import wire
from fedserdiff.wire import Fault
from sites.egress import Door

VOLUME = ArrayRecord({"weights": Array(np.random.default_rng(0).integers(0, 4000, (4, 16, 24, 16), np.int16))})


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "east", smoke(), SITE)


def assert_addressed_as_asked(reply: Message) -> None:
    about = reply.metadata
    assert (about.group_id, about.dst_node_id, about.src_node_id) == (GROUP, COORDINATOR, 2)
    assert (about.message_type, about.reply_to_message_id) == (MessageType.EVALUATE, "message-1")
    assert (about.src_task_id, about.dst_task_id) == (None, None)
    assert 3000 < about.ttl <= 3600
    assert SECRET.encode() not in on_the_wire(reply)


def test_a_reply_is_addressed_anew_whatever_its_handler_wrote_on_it(door: Door) -> None:
    def handler(message: Message, context: Context) -> Message:
        reply = Message(honest_reply(door, MessageType.EVALUATE), reply_to=message)
        reply.metadata.group_id = SECRET
        reply.metadata.dst_node_id = 99
        reply.metadata.src_task_id = reply.metadata.dst_task_id = 123_456_789
        reply.metadata.ttl = 123.456
        return reply

    reply = ask(door, MessageType.EVALUATE, handler)
    assert reply.has_content()
    assert_addressed_as_asked(reply)


@pytest.mark.parametrize("then", ["answers", "raises"])
def test_a_handler_that_writes_on_the_request_writes_nothing_on_the_reply(door: Door, then: str) -> None:
    def handler(message: Message, context: Context) -> Message:
        message.metadata.group_id = SECRET
        message.metadata.dst_node_id = 99
        message.metadata.src_task_id = message.metadata.dst_task_id = 123_456_789
        message.metadata.ttl = 123_456.0
        if then == "raises":
            raise ValueError
        return Message(honest_reply(door, MessageType.EVALUATE), reply_to=message)

    reply = ask(door, MessageType.EVALUATE, handler)
    assert reply.has_content() == (then == "answers")
    assert_addressed_as_asked(reply)


def trained(door: Door, weights: ArrayRecord, message: Message) -> Message:
    content = honest_reply(door, MessageType.TRAIN)
    content[wire.ARRAYS] = weights
    return Message(content, reply_to=message)


def other_rules(door: Door) -> Handler:
    def handler(message: Message, context: Context) -> Message:
        message.content[wire.ARRAYS] = VOLUME
        return trained(door, VOLUME, message)

    return handler


def other_start(door: Door) -> Handler:
    far = moved(student(door.config), by=50)

    def handler(message: Message, context: Context) -> Message:
        message.content.array_records[wire.ARRAYS]["weights"] = far["weights"]
        return trained(door, change(far, by=50), message)

    return handler


def other_kind(door: Door) -> Handler:
    def handler(message: Message, context: Context) -> Message:
        message.metadata.message_type = MessageType.TRAIN
        return trained(door, change(student(door.config)), message)

    return handler


@pytest.mark.parametrize(
    ("message_type", "make"),
    [(MessageType.TRAIN, other_rules), (MessageType.TRAIN, other_start), (MessageType.EVALUATE, other_kind)],
)
def test_a_handler_that_changes_the_request_does_not_change_what_may_leave(
    door: Door, message_type: str, make: Callable[[Door], Handler]
) -> None:
    """Neither the rules of its reply, nor the student that its update is measured by, nor what was asked."""
    assert_fault(ask(door, message_type, make(door)), Fault.BLOCKED)


def test_a_coordinator_does_not_widen_what_may_leave_by_what_it_sends(door: Door) -> None:
    """What was agreed is in the hospital's own experiment: a student of that shape, and no other."""
    zeros = ArrayRecord({"weights": Array(np.zeros((4, 16, 24, 16), np.int16))})
    small = ArrayRecord({"weights": Array((VOLUME["weights"].numpy() % 2).astype(np.int16))})  # within max_update_rms
    config = door.config.replace({"privacy.max_update_rms": 1.0})
    generous = Door(door.records, config, SITE)
    app = make_app(generous, lambda message, _: trained(generous, small, message))
    assert_fault(app(order(MessageType.TRAIN, zeros), context()), Fault.BLOCKED)


def test_a_consolidation_goes_by_the_hospitals_student_too(tmp_path: Path) -> None:
    """Importance has a value for each weight of the hospital's own student, not of the one that was sent."""
    door = Door(tmp_path / "east", smoke(method="ewc"), SITE)
    content = honest_reply(door, wire.CONSOLIDATE)
    content[wire.FISHER] = VOLUME
    app = make_app(door, lambda message, _: Message(content, reply_to=message))
    assert_fault(app(order(wire.CONSOLIDATE, VOLUME), context()), Fault.BLOCKED)
