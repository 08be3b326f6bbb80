"""The guard around a hospital's app: replies that pass, entries in the ledger, and data that no reply reveals."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from guarded import SITE, ask, ask_for, assert_fault, context, entries, honest_reply, make_app, smoke, student
from traffic import RUN, SECRET, TYPES, on_the_wire, order, request

from fedserdiff import wire
from fedserdiff.errors import ConfigError, DataError, ExperimentError, FederationError, RecordsError
from fedserdiff.wire import Fault
from sites.egress import Door, GuardedApp
from sites.ledger import LEDGER_FILE

NPY_HEADER = 128  # of the arrays here
HANDED_OVER = ("ser-diff", "ewc", "image-replay", "lesion-replay")


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "east", smoke(), SITE)


def size_of(array: Array) -> int:
    """The bytes of an array, counted here: a stream as it is, other values with their header."""
    return len(array.data) if array.stype == "bz2" else NPY_HEADER + array.numpy().nbytes


def payload(content: RecordDict) -> dict[str, int]:
    """The bytes of each record, counted here: arrays, numbers at 8 each, and names."""
    sizes = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            sizes[name] = sum(len(key) + size_of(array) for key, array in record.items())
        else:
            sizes[name] = sum(len(key) + 8 for key in record)
    return sizes


@pytest.mark.parametrize(
    ("message_type", "method"),
    [(kind, "ser-diff") for kind in TYPES if kind != wire.CONSOLIDATE]
    + [(wire.CONSOLIDATE, method) for method in HANDED_OVER],
)
def test_an_honest_answer_passes_as_it_is_and_is_entered(tmp_path: Path, message_type: str, method: str) -> None:
    door = Door(tmp_path / "east", smoke(method=method), SITE)
    given = honest_reply(door, message_type)
    reply = ask_for(door, message_type, honest_reply(door, message_type))
    assert reply.content == given
    (entry,) = entries(door)
    assert (entry.verdict, entry.reason, entry.message, entry.run) == ("sent", "", message_type, RUN)
    asked = {
        MessageType.QUERY: (None, None),
        wire.STATISTICS: (None, None),
        MessageType.TRAIN: (2, 1),
    }.get(message_type, (2, None))
    assert (entry.stage, entry.server_round) == asked
    assert {record.name: record.bytes for record in entry.records} == payload(given)
    assert entry.bytes == sum(payload(given).values())
    assert {record.name: record.sha256 for record in entry.records} == {
        name: record.object_id for name, record in reply.content.items()
    }


def test_the_ledger_names_each_array_that_left_by_its_type_and_shape(door: Door) -> None:
    ask_for(door, MessageType.TRAIN, honest_reply(door, MessageType.TRAIN))
    ask_for(door, wire.CONSOLIDATE, honest_reply(door, wire.CONSOLIDATE))
    trained, kept = entries(door)
    (weights,) = student(door.config).values()
    assert [dict(record.arrays) for record in trained.records] == [{"weights": f"float16[{weights.shape[0]}]"}, {}]
    assert [dict(record.arrays) for record in kept.records] == [{"maps": "int8[2, 3, 16, 24]"}]


def test_an_error_that_a_handler_made_itself_tells_its_kind_alone(door: Door) -> None:
    reply = ask(door, MessageType.TRAIN, lambda message, _: Message(Error(42, SECRET), reply_to=message))
    assert_fault(reply, Fault.PROTOCOL)
    assert SECRET.encode() not in on_the_wire(reply)


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DataError(f"{SECRET}: no such case"), Fault.DATA),
        (RecordsError(f"{SECRET}: is missing"), Fault.RECORDS),
        (FederationError(SECRET), Fault.PROTOCOL),
        (ConfigError(SECRET), Fault.PROTOCOL),
        (ExperimentError(SECRET), Fault.EXPERIMENT),
        (MemoryError(SECRET), Fault.MEMORY),
        (torch.OutOfMemoryError(f"CUDA out of memory at {SECRET}"), Fault.GPU_MEMORY),
        (RuntimeError(f"CUDA error: out of memory at {SECRET}"), Fault.GPU_MEMORY),
        (RuntimeError(f"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling {SECRET}"), Fault.GPU_MEMORY),
        (RuntimeError(f"DefaultCPUAllocator: can't allocate memory: {SECRET}"), Fault.MEMORY),
        (FileNotFoundError(errno.ENOENT, "No such file", SECRET), Fault.INTERNAL),
        (KeyError(SECRET), Fault.INTERNAL),
        (ExceptionGroup(SECRET, [ValueError(SECRET)]), Fault.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_an_exceptions_text_stays_in_the_hospitals_log(door: Door, error: Exception, fault: Fault) -> None:
    def handler(message: Message, context: Context) -> Message:
        raise error

    reply = ask(door, MessageType.TRAIN, handler)
    assert_fault(reply, fault)
    assert SECRET.encode() not in on_the_wire(reply)
    assert SECRET in (door.records / "hospital.log").read_text()
    (entry,) = entries(door)
    assert (entry.verdict, entry.reason, entry.bytes, entry.records) == ("fault", fault.name, 0, ())


def test_torch_that_gets_no_memory_is_told_from_other_errors(door: Door) -> None:
    def handler(message: Message, context: Context) -> Message:
        torch.empty(1 << 50)
        raise AssertionError

    assert_fault(ask(door, MessageType.TRAIN, handler), Fault.MEMORY)


def test_an_exception_that_cannot_be_told_is_a_fault_too(door: Door) -> None:
    def handler(message: Message, context: Context) -> Message:
        raise _Unspeakable

    reply = ask(door, MessageType.TRAIN, handler)
    assert_fault(reply, Fault.INTERNAL)
    assert SECRET.encode() not in on_the_wire(reply)


@pytest.mark.parametrize("answer", [None, 7, SECRET, RecordDict()], ids=lambda value: type(value).__name__)
def test_a_handler_that_returns_no_message_is_a_fault(door: Door, answer: object) -> None:
    assert_fault(ask(door, MessageType.TRAIN, lambda message, _: answer), Fault.INTERNAL)  # type: ignore[arg-type,return-value]
    assert [entry.verdict for entry in entries(door)] == ["fault"]


@pytest.mark.parametrize("message_type", ["train.everything", "query.patients", "system", "reconnect"])
def test_a_message_that_nobody_answers_is_a_fault_without_flowers_words(door: Door, message_type: str) -> None:
    app = make_app(door, lambda message, _: Message(RecordDict(), reply_to=message))
    reply = app(request(message_type, RecordDict()), context())
    assert_fault(reply, Fault.INTERNAL)
    assert b"registered" not in on_the_wire(reply)
    assert [(entry.message, entry.verdict) for entry in entries(door)] == [(message_type, "fault")]


def test_an_answer_to_a_kind_of_message_that_was_not_agreed_is_blocked_though_a_handler_has_one(door: Door) -> None:
    app = make_app(door, lambda message, _: Message(RecordDict(), reply_to=message))
    app.evaluate("everything")(lambda message, _: Message(honest_reply(door, "evaluate"), reply_to=message))
    content = RecordDict({wire.CONFIG: ConfigRecord({"stage": 1})})
    assert_fault(app(request("evaluate.everything", content), context()), Fault.BLOCKED)
    assert [(entry.verdict, entry.bytes) for entry in entries(door)] == [("refused", 0)]


def test_the_guard_is_around_mods_and_lifespans_too(door: Door) -> None:
    def adds(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        reply.content["more"] = ConfigRecord({"path": SECRET})
        return reply

    app = GuardedApp(lambda context: door)
    app.evaluate(mods=[adds])(lambda message, _: Message(honest_reply(door, "evaluate"), reply_to=message))
    assert_fault(app(order("evaluate", student(door.config)), context()), Fault.BLOCKED)

    @app.lifespan()
    def fails(context: Context) -> Iterator[None]:
        yield
        raise RuntimeError(SECRET)

    reply = app(order("evaluate", student(door.config)), context())
    assert_fault(reply, Fault.INTERNAL)
    assert SECRET.encode() not in on_the_wire(reply)


def test_a_node_that_is_no_hospital_of_the_experiment_answers_by_a_code(tmp_path: Path) -> None:
    def nowhere(context: Context) -> Door:
        raise ConfigError(f"no site has its records in {SECRET}")

    reply = GuardedApp(nowhere)(order("query", student(smoke())), context())
    assert_fault(reply, Fault.PROTOCOL)
    assert SECRET.encode() not in on_the_wire(reply)


def occupied(door: Door) -> None:
    door.records.write_text("a file where the folder should be")


def a_folder(door: Door) -> None:
    (door.records / LEDGER_FILE).mkdir(parents=True)


def broken(door: Door) -> None:
    ask_for(door, "query", honest_reply(door, "query"))
    file = door.records / LEDGER_FILE
    file.write_text(file.read_text().replace('"bytes":', '"bytes":1'))


def cut(door: Door) -> None:
    """The first line of two is gone, so that the quota would count too little."""
    for _ in range(2):
        ask_for(door, "query", honest_reply(door, "query"))
    file = door.records / LEDGER_FILE
    file.write_text(file.read_text().splitlines(keepends=True)[1])


@pytest.mark.parametrize("message_type", TYPES)
@pytest.mark.parametrize("spoil", [occupied, a_folder, broken, cut])
def test_without_a_ledger_that_holds_nothing_is_sent(
    tmp_path: Path, spoil: Callable[[Door], None], message_type: str
) -> None:
    door = Door(tmp_path / "patient-007", smoke(), SITE)
    spoil(door)
    before = (door.records / LEDGER_FILE).read_bytes() if (door.records / LEDGER_FILE).is_file() else b""
    reply = ask_for(door, message_type, honest_reply(door, message_type))
    assert_fault(reply, Fault.INTERNAL)
    assert b"patient-007" not in on_the_wire(reply)
    if before:
        assert (door.records / LEDGER_FILE).read_bytes() == before


def test_on_a_full_disk_nothing_is_sent_until_there_is_room(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert_fault(ask_for(door, "evaluate", honest_reply(door, "evaluate")), Fault.INTERNAL)
    assert entries(door) == ()
    assert ask_for(door, "evaluate", honest_reply(door, "evaluate")).has_content()
    assert [entry.verdict for entry in entries(door)] == ["sent"]


def test_the_quota_counts_all_that_left_and_outlives_a_restart(tmp_path: Path) -> None:
    size = sum(payload(honest_reply(Door(tmp_path, smoke(), SITE), "train")).values())
    config = smoke(**{"privacy.egress_quota_mb": (2 * size + 40) / 1e6})

    def restarted() -> Door:
        return Door(tmp_path / "east", config, SITE)

    door = restarted()
    assert_fault(ask_for(door, "train", RecordDict()), Fault.BLOCKED)  # what did not leave does not count
    for _ in range(2):
        assert ask_for(door, "train", honest_reply(door, "train")).has_content()
    assert door.ledger.bytes_sent() == 2 * size
    for again in (door, restarted()):
        assert_fault(ask_for(again, "train", honest_reply(again, "train")), Fault.BLOCKED)
        assert "egress_quota_mb" in entries(again)[-1].reason
        assert_fault(ask_for(again, "evaluate", honest_reply(again, "evaluate")), Fault.BLOCKED)
    assert door.ledger.bytes_sent() == 2 * size
    assert [entry.verdict for entry in entries(door)] == ["refused", "sent", "sent", *["refused"] * 4]


def test_a_full_gpu_is_told_to_the_hospital_with_what_fits(tmp_path: Path) -> None:
    door = Door(tmp_path / "east", smoke(method="fine-tune", **{"training.batch_size": 16}), SITE)

    def handler(message: Message, context: Context) -> Message:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 60.00 GiB. GPU 0 has a total capacity of 80.00 GiB of which 10.00 "
            "GiB is free. Of the allocated memory 20.00 GiB is allocated by PyTorch, and 0 bytes is reserved by PyTorch"
        )

    assert_fault(ask(door, MessageType.TRAIN, handler), Fault.GPU_MEMORY)
    log = (door.records / "hospital.log").read_text()
    assert "Tried to allocate 60.00 GiB" in log
    assert (
        "ERROR the GPU's memory is not large enough: lower training.samples_a_pass (now 0, all of a step's) to 6\n"
        in log
    ), "30 of 80 GiB fit"
