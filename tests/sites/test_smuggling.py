"""Hundreds of generated attempts to get a scan out of a hospital.

What the guard checks is form, not meaning: a number that may be sent can be chosen to mean something, so a scan that is
rewritten as int8 levels of error maps, or as small changes of weights, looks like any other. What keeps meaning honest
is that the code inside is the hospital's own, and nothing that the coordinator ships. The attempts here are those that
do not look like an honest reply; each combines up to three changes of one.
"""

import base64
import bz2
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from guarded import SITE, ask, ask_for, entries, smoke, student
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traffic import GROUP, TYPES, hashes, histograms, honest, on_the_wire, packed

from fedserdiff import wire
from fedserdiff.wire import Fault
from sites.egress import Door
from sites.ledger import SENT

REPEATABLE: dict[str, Any] = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
}

CONFIG = smoke()

LEVELS = np.random.default_rng(7).permutation(np.setdiff1d(np.arange(-120, 121), np.arange(-8, 9)))[:64]
MARK = LEVELS.astype(np.int8)
"""64 voxels that occur nowhere else: by them the scan is known again."""

SCAN = np.random.default_rng(8).integers(-120, 121, (4, 16, 24, 16)).astype(np.int8)
SCAN[0, 0] = np.resize(MARK, (24, 16))

TRACES = [
    *(MARK.astype(dtype).tobytes() for dtype in ("i1", "<i2", ">i2", "<i4", "<f2", "<f4", ">f4", "<f8")),
    MARK.tobytes().hex().encode(),
    base64.b64encode(MARK.tobytes()),
    MARK.tobytes().decode("latin-1").encode(),
]
WINDOW = 16

NAMES = ("/scans/patient-007", "weights ", "Weights", "num\x00examples", "\ud800", wire.TEACHER, wire.FISHER)
TEXTS = st.one_of(st.text(max_size=30), st.sampled_from([*NAMES, *(trace.decode() for trace in TRACES[-3:])]))
PIECES = st.one_of(st.binary(min_size=1, max_size=40), st.sampled_from(TRACES), st.just(SCAN.tobytes()))
SCANS = st.builds(
    lambda dtype, flat: Array(SCAN.astype(dtype).ravel() if flat else SCAN.astype(dtype)),
    st.sampled_from(["int8", "uint8", "int16", "float16", "float32", ">f4", "float64"]),
    st.booleans(),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.lists(st.floats()), st.just([int(level) for level in LEVELS])
)
LISTS = st.one_of(st.lists(PIECES, max_size=3), st.lists(TEXTS, max_size=3))
CONFIGS = st.dictionaries(TEXTS, st.one_of(TEXTS, PIECES, st.booleans(), LISTS), max_size=3).map(ConfigRecord)
RECORDS = st.one_of(
    CONFIGS,
    st.builds(lambda name, array: ArrayRecord({name: array}), TEXTS, SCANS),
    st.builds(lambda name, value: MetricRecord({name: value}), TEXTS, NUMBERS),
)


def leaks(sent: bytes) -> bool:
    """Whether 16 bytes in a row of the mark, in any of its encodings, are among the bytes."""
    return any(trace[i : i + WINDOW] in sent for trace in TRACES for i in range(len(trace) - WINDOW + 1))


def one_of(draw: st.DrawFn, content: RecordDict, kind: type) -> Any:
    """A record of a kind, or None."""
    records = [record for record in content.values() if type(record) is kind and len(record)]
    return draw(st.sampled_from(records)) if records else None


def another_record(draw: st.DrawFn, content: RecordDict) -> None:
    content[draw(TEXTS.filter(lambda name: name not in content))] = draw(RECORDS)


def record_of_another_kind(draw: st.DrawFn, content: RecordDict) -> None:
    name = draw(st.sampled_from(list(content)))
    kind = type(content.pop(name))
    content[name] = draw(RECORDS.filter(lambda record: type(record) is not kind))


def another_array(draw: st.DrawFn, content: RecordDict) -> None:
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        record[draw(TEXTS.filter(lambda name: name not in record))] = draw(SCANS)


def another_number(draw: st.DrawFn, content: RecordDict) -> None:
    if (record := one_of(draw, content, MetricRecord)) is not None:
        record[draw(TEXTS.filter(lambda name: name not in record))] = draw(NUMBERS)


def scan_as_an_array(draw: st.DrawFn, content: RecordDict) -> None:
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        record[draw(st.sampled_from(list(record)))] = draw(SCANS)


def spliced(draw: st.DrawFn, content: RecordDict) -> None:
    """Bytes put somewhere into an array's encoding, often at one of its ends."""
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        array = record[name := draw(st.sampled_from(list(record)))]
        end = len(array.data)
        place = draw(st.one_of(st.just(end), st.sampled_from(range(140)), st.integers(0, end)))
        data = array.data[:place] + draw(PIECES) + array.data[place:]
        record[name] = Array(array.dtype, array.shape, array.stype, data)


def another_header(draw: st.DrawFn, content: RecordDict) -> None:
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        array = record[name := draw(st.sampled_from(list(record)))]
        piece = draw(PIECES)[:100]
        place = draw(st.integers(0, 128 - len(piece)))
        data = array.data[:place] + piece + array.data[place + len(piece) :]
        if data == array.data:
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        record[name] = Array(array.dtype, array.shape, array.stype, data)


def described_otherwise(draw: st.DrawFn, content: RecordDict) -> None:
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        array = record[name := draw(st.sampled_from(list(record)))]
        about = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
        other = {
            "dtype": st.one_of(TEXTS, st.sampled_from(["float64", "<f4", "|i1", "object", "bool"])),
            "shape": st.lists(st.integers(-(2**63), 2**63), max_size=5).map(tuple),
            "stype": TEXTS,
        }
        what = draw(st.sampled_from(sorted(other)))
        record[name] = Array(**about | {what: draw(other[what].filter(lambda value: value != about[what]))})


def no_number(draw: st.DrawFn, content: RecordDict) -> None:
    """Weights that are NaN, the scan in their idle bits; or levels and counts out of range; or hashes out of order."""
    if (record := one_of(draw, content, ArrayRecord)) is not None:
        name = draw(st.sampled_from(list(record)))
        if record[name].dtype == "float16":
            values = record[name].numpy().copy().ravel()
            bits = np.uint16(0x7C00) | (MARK.view(np.uint8).astype(np.uint16) << draw(st.integers(1, 2)))
            values[: len(bits)] = bits.view(np.float16)
            record[name] = Array(values)
        elif record[name].dtype == "int8":
            record[name] = packed(np.resize(SCAN, record[name].shape))
        elif record[name].dtype == "int32":
            record[name] = Array(-1 - record[name].numpy())
        else:  # hashes, whose order would tell something
            record[name] = Array(record[name].numpy()[::-1].copy())
    elif (record := one_of(draw, content, MetricRecord)) is not None:
        record[draw(st.sampled_from(list(record)))] = draw(st.sampled_from([np.nan, np.inf, -1e15, -(10**9), 1e15]))


def telling_count(draw: st.DrawFn, content: RecordDict) -> None:
    """A number as exact as it should not be, or a list of them."""
    if (record := one_of(draw, content, MetricRecord)) is not None:
        exact = st.integers(0, 10**6).filter(lambda count: count % 5)
        listed = st.lists(st.integers(0, 10**6), min_size=1)
        counts = [name for name in record if name.endswith(("cases", "examples"))] or list(record)
        record[draw(st.sampled_from(counts))] = draw(st.one_of(exact, listed))


def left_out(draw: st.DrawFn, content: RecordDict) -> None:
    del content[draw(st.sampled_from(list(content)))]


OF_ARRAYS = (scan_as_an_array, another_array, described_otherwise, another_header, spliced)
OF_NUMBERS = (telling_count, another_number)
OF_RECORDS = (no_number, record_of_another_kind, left_out, another_record)
ORDER = (no_number, *OF_NUMBERS, *OF_ARRAYS, record_of_another_kind, left_out, another_record)
"""The order of changes: values, which must be readable, then encodings, then records; so none undoes another."""


@st.composite
def hostile(draw: st.DrawFn) -> tuple[str, tuple[str, ...], RecordDict]:
    """The type of a message, the names of up to three changes, and the reply that they make of an honest one."""
    message_type = draw(st.sampled_from([*TYPES, *[MessageType.TRAIN, wire.CONSOLIDATE] * 3]))  # most of what leaves
    content = honest(message_type, CONFIG, student(CONFIG), SITE)
    held = [type(record) for record in content.values()]
    fit = OF_RECORDS + OF_ARRAYS * (ArrayRecord in held) + OF_NUMBERS * (MetricRecord in held)
    changes = draw(st.lists(st.sampled_from(fit), min_size=1, max_size=3, unique=True))
    for change in sorted(changes, key=ORDER.index):
        change(draw, content)
    return message_type, tuple(change.__name__ for change in changes), content


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / "east", CONFIG, SITE)


def test_none_of_hundreds_of_attempts_gets_anything_out(door: Door) -> None:
    """Whether a handler answers, raises or makes an error of its own, a fixed code is all that leaves."""
    tried: Counter[str] = Counter()
    codes = {(int(fault), fault.name) for fault in Fault}

    @settings(max_examples=320, **REPEATABLE)
    @given(hostile(), st.sampled_from(["answers"] * 8 + ["raises", "errors"]), TEXTS)
    def attempt(reply: tuple[str, tuple[str, ...], RecordDict], manner: str, text: str) -> None:
        message_type, changes, content = reply

        def handler(message: Message, context: Context) -> Message:
            if manner == "raises":
                raise ValueError(text, content)
            answer = Message(Error(7, text) if manner == "errors" else content, reply_to=message)
            answer.metadata.group_id = text
            return answer

        came = ask(door, message_type, handler)
        assert came.has_error(), changes
        assert (came.error.code, came.error.reason) in codes
        assert came.metadata.group_id == GROUP
        assert not leaks(on_the_wire(came))
        tried.update([manner, *changes] if manner == "answers" else [manner])

    attempt()
    assert tried["answers"] >= 200
    assert tried["raises"]
    assert tried["errors"]
    assert {change.__name__ for change in ORDER} <= set(tried), "each change was tried"
    assert len(entries(door)) >= tried["answers"] + tried["raises"] + tried["errors"]
    assert SENT not in {entry.verdict for entry in entries(door)}
    assert door.ledger.bytes_sent() == 0


def test_the_scan_is_found_where_it_does_leave() -> None:
    """The search for the mark would find it, in each of its encodings."""
    for trace in TRACES:
        reply = RecordDict({"more": ConfigRecord({"scan": b"before" + trace + b"after"})})
        assert leaks(on_the_wire(reply))
    assert leaks(on_the_wire(RecordDict({"more": ArrayRecord({"scan": Array(SCAN)})})))
    assert not any(leaks(on_the_wire(honest(kind, CONFIG, student(CONFIG)))) for kind in TYPES)


@st.composite
def honest_values(draw: st.DrawFn) -> tuple[str, RecordDict]:
    """A reply as agreed, of values that are anywhere in their ranges."""
    message_type = draw(st.sampled_from(TYPES))
    content = honest(message_type, CONFIG, student(CONFIG), SITE)
    values = np.random.default_rng(draw(st.integers(0, 2**32)))
    if message_type == wire.STATISTICS:
        return message_type, RecordDict({wire.HISTOGRAMS: histograms(draw(st.integers(0, 2**32)))})
    for name, array in (item for record in content.array_records.values() for item in list(record.items())):
        if name == "maps":
            drawn = values.integers(-15, 16, (draw(st.integers(1, CONFIG.replay.shared_maps)), 3, 16, 24), np.int8)
            content.array_records[wire.ERROR_MAPS][name] = packed(drawn)
        elif name == "hashes":
            content[wire.SCANS] = hashes(draw(st.integers(0, 2**32)), 5 * draw(st.integers(1, 40)))
        else:
            step = values.uniform(-CONFIG.privacy.max_update_rms, CONFIG.privacy.max_update_rms, array.shape).astype(
                np.float16
            )
            content.array_records[wire.ARRAYS][name] = Array(step)
    for record in content.metric_records.values():
        for name in record:
            if name.endswith(("cases", "examples")):
                record[name] = 5 * draw(st.integers(1, 200_000))
            elif name != "site":
                least, most = {"loss": (-1e12, 1e12), "hd95": (0, 1e4)}.get(name[:4].strip("-"), (0, 1))
                record[name] = draw(st.floats(least, most))
    return message_type, content


@pytest.mark.parametrize("level", range(1, 9))
def test_values_leave_as_one_stream_whichever_of_the_many_a_handler_packed_them_in(door: Door, level: int) -> None:
    """The choice of a stream could carry a message, so the guard packs again; another build's honest stream passes."""
    content = honest(wire.CONSOLIDATE, CONFIG, student(CONFIG))
    maps = content.array_records[wire.ERROR_MAPS]["maps"]
    other = bz2.compress(bz2.decompress(maps.data), level)
    assert other != maps.data
    content.array_records[wire.ERROR_MAPS]["maps"] = Array(maps.dtype, maps.shape, maps.stype, other)
    left = ask_for(door, wire.CONSOLIDATE, content).content
    assert left.array_records[wire.ERROR_MAPS]["maps"].data == maps.data
    assert {record.sha256 for record in entries(door)[0].records} == {left[wire.ERROR_MAPS].object_id}


def test_what_passes_is_the_same_bytes_in_whatever_order_a_handler_gave_them(door: Door) -> None:
    """The order of records and of names says nothing: both are the guard's own, and the values are the handler's."""

    @settings(max_examples=60, **REPEATABLE)
    @given(honest_values(), st.randoms(use_true_random=False))
    def passes(given_: tuple[str, RecordDict], shuffled: Any) -> None:
        message_type, content = given_
        other = RecordDict()
        for name in shuffled.sample(list(content), len(content)):
            record = content[name]
            other[name] = type(record)({key: record[key] for key in shuffled.sample(list(record), len(record))})
        replies = [ask_for(door, message_type, one) for one in (content, other)]
        assert [reply.content for reply in replies] == [content, content]
        first, second = (on_the_wire(reply.content) for reply in replies)
        assert first == second

    passes()
