"""The ledger: its format as written out here, every changed byte, and a disk that fails."""

import hashlib
import json
import multiprocessing
import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from fedserdiff.errors import DataError
from sites.ledger import Entry, Ledger, Released, read_ledger

WEIGHTS = Released("arrays", "ArrayRecord", {"out.weight": "float32[2, 3]", "in.bias": "float32[4]"}, 40, "ab" * 32)
SCORES = Released("metrics", "MetricRecord", {}, 24, "cd" * 32)
SENT: dict[str, Any] = {
    "run": 8, "message": "train", "stage": 1, "server_round": 1, "verdict": "sent", "reason": "", "records": (SCORES,),
}  # fmt: skip


def write_four(file: Path) -> list[Entry]:
    """A query answered, a round trained, a reply refused and a fault."""
    ledger = Ledger(file)

    def add(message: str, stage: int | None, number: int | None, verdict: str, *records: Released) -> Entry:
        reason = {"sent": "", "refused": "über der Grenze", "fault": "DATA"}[verdict]
        return ledger.append(
            run=7, message=message, stage=stage, server_round=number, verdict=verdict, reason=reason, records=records
        )

    return [
        add("query", None, None, "sent", Released("site", "ConfigRecord", {}, 9, "01" * 32)),
        add("train", 1, 2, "sent", WEIGHTS, SCORES),
        add("train.consolidate", 1, None, "refused", WEIGHTS),
        add("evaluate", 1, None, "fault"),
    ]


def sealed(values: dict[str, Any], previous: str) -> bytes:
    """A line as the format says, computed here."""

    def plain(about: object) -> str:
        return json.dumps(about, sort_keys=True, separators=(",", ":"))

    rest = {k: v for k, v in values.items() if k not in ("previous", "hash")}
    digest = hashlib.sha256((previous + plain(rest)).encode()).hexdigest()
    return (plain({**rest, "previous": previous, "hash": digest}) + "\n").encode()


def resealed(lines: list[bytes]) -> bytes:
    """Lines whose numbers and hashes are made right, as one who rewrites a ledger would make them."""
    text, previous = b"", "0" * 64
    for number, line in enumerate(lines, 1):
        text += sealed({**json.loads(line), "number": number}, previous)
        previous = json.loads(text.splitlines()[-1])["hash"]
    return text


def test_a_line_is_its_entry_and_its_hash_is_what_the_format_says(tmp_path: Path) -> None:
    entries = write_four(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(lines[1]) == {
        "number": 2,
        "time": entries[1].time,
        "run": 7,
        "message": "train",
        "stage": 1,
        "server_round": 2,
        "verdict": "sent",
        "reason": "",
        "records": [
            {"name": "arrays", "kind": "ArrayRecord", "arrays": dict(WEIGHTS.arrays), "bytes": 40, "sha256": "ab" * 32},
            {"name": "metrics", "kind": "MetricRecord", "arrays": {}, "bytes": 24, "sha256": "cd" * 32},
        ],
        "bytes": 64,
        "previous": entries[0].hash,
        "hash": entries[1].hash,
    }
    previous = "0" * 64
    for line, entry in zip(lines, entries, strict=True):
        assert line == sealed(json.loads(line), previous)
        previous = entry.hash


def test_what_was_appended_is_what_is_read(tmp_path: Path) -> None:
    entries = write_four(tmp_path / "ledger.jsonl")
    assert list(read_ledger(tmp_path / "ledger.jsonl")) == entries
    assert [entry.bytes for entry in entries] == [9, 64, 0, 0], "what was refused has not left"
    assert entries[2].records == (WEIGHTS,), "but the entry describes it"
    now = datetime.now(UTC)
    for entry in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry.time)
        assert timedelta(0) <= now - datetime.fromisoformat(entry.time) < timedelta(minutes=1)


def test_no_changed_byte_passes(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    write_four(file)
    whole = file.read_bytes()
    for place in range(len(whole)):
        for changed in {whole[place] ^ 1, whole[place] ^ 0x20, ord("\n")} - {whole[place]}:
            file.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
            with pytest.raises(DataError, match=f"ledger.jsonl, line {whole[:place].count(10) + 1}: "):
                read_ledger(file)


def test_lines_cannot_be_removed_doubled_swapped_or_added(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    write_four(file)
    a, b, c, d = file.read_bytes().splitlines(keepends=True)
    for line, lines in {1: [b, c, d], 2: [a, c, d], 3: [a, b, b, c, d], 4: [a, b, c, c]}.items():
        file.write_bytes(b"".join(lines))
        with pytest.raises(DataError, match=f"line {line}: .*missing, duplicated or out of place"):
            read_ledger(file)
    file.write_bytes(a + c + b + d)
    with pytest.raises(DataError, match=r"line 2: .*out of place"):
        read_ledger(file)
    file.write_bytes(a + b"\n" + b + c + d)
    with pytest.raises(DataError, match="line 2: not JSON"):
        read_ledger(file)


def test_an_entry_of_another_chain_does_not_fit(tmp_path: Path) -> None:
    write_four(tmp_path / "one.jsonl")
    first, second, *rest = (tmp_path / "one.jsonl").read_bytes().splitlines(keepends=True)
    other = sealed({**json.loads(first), "run": 8}, "0" * 64)
    (tmp_path / "two.jsonl").write_bytes(b"".join([other, second, *rest]))
    with pytest.raises(DataError, match="line 2: its previous hash is not that of the entry before it"):
        read_ledger(tmp_path / "two.jsonl")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bytes": 63}, "63 bytes left, but its records and verdict give 64"),
        ({"verdict": "refused"}, "64 bytes left, but its records and verdict give 0"),
        ({"verdict": "lost"}, "its verdict is none of sent, refused, fault"),
        ({"note": ""}, "an entry does not have exactly the fields"),
        ({"run": "7"}, "an entry's run has the wrong type"),
        ({"stage": True}, "an entry's stage has the wrong type"),
        ({"records": [{"name": "arrays"}]}, "a record does not have exactly the fields"),
        ({"records": [[]]}, "a record does not have exactly the fields"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_though_its_hash_is_right(
    tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    file = tmp_path / "ledger.jsonl"
    write_four(file)
    first, second, *_ = file.read_bytes().splitlines()
    file.write_bytes(resealed([first, json.dumps({**json.loads(second), **change}).encode()]))
    with pytest.raises(DataError, match=f"line 2: .*{text}"):
        read_ledger(file)


@pytest.mark.parametrize("line", [b"[]", b"7", b"[" * 100_000, b"\xff\xfe{}", b"NaN"])
def test_a_line_of_something_else_is_a_clear_error(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(line + b"\n")
    with pytest.raises(DataError, match="line 1: "):
        read_ledger(file)


def test_a_torn_line_is_reported_then_moved_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    file, aside = tmp_path / "ledger.jsonl", tmp_path / "ledger.jsonl.torn"
    entries = write_four(file)
    last = file.read_bytes().splitlines(keepends=True)[-1]
    for torn in (last[:-1], last[:40]):
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]) + torn)
        with pytest.raises(DataError, match=r"line 4: torn.*3 lines before it are intact.*ledger.jsonl.torn"):
            read_ledger(file)
        assert Ledger(file).bytes_sent() == 73, "a torn line counts for nothing"
        again = Ledger(file).append(**SENT)
        assert list(read_ledger(file)) == [*entries[:3], again]
    assert aside.read_bytes() == last[:-1] + b"\n" + last[:40] + b"\n"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


def test_a_broken_ledger_takes_no_entry(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    write_four(file)
    broken = file.read_bytes().replace(b'"stage":1', b'"stage":2', 1)
    file.write_bytes(broken)
    with pytest.raises(DataError, match="line 2: "):
        Ledger(file).append(**SENT)
    with pytest.raises(DataError, match="line 2: "):
        Ledger(file).bytes_sent()
    assert file.read_bytes() == broken


def test_a_ledger_cut_while_it_is_in_use_takes_no_entry(tmp_path: Path) -> None:
    ledger = Ledger(file := tmp_path / "ledger.jsonl")
    write_four(file)
    assert ledger.bytes_sent() == 73
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(DataError, match="cut while in use"):
        ledger.bytes_sent()
    with pytest.raises(DataError, match="cut while in use"):
        ledger.append(**SENT)


def test_bytes_sent_counts_what_others_append_too(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = Ledger(file)
    assert ledger.bytes_sent() == 0
    assert not file.exists()
    write_four(file)
    assert ledger.bytes_sent() == 9 + 40 + 24
    Ledger(file).append(**SENT)
    assert ledger.bytes_sent() == 9 + 40 + 24 + 24


def test_only_the_owner_may_read_a_ledger(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_four(tmp_path / "ledger.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "ledger.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"verdict": "lost"}, "a verdict is one of sent, refused, fault"),
        ({"reason": "two\nlines"}, "a reason is one line"),
        ({"records": (Released("arrays", "ArrayRecord", {}, -1, ""),)}, "-1 bytes left"),
        ({"stage": "1"}, "an entry's stage has the wrong type"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    file = tmp_path / "ledger.jsonl"
    entries = write_four(file)
    with pytest.raises(ValueError, match=text):
        Ledger(file).append(**{**SENT, **change})
    assert list(read_ledger(file)) == entries


def append_often(file: Path, run: int, together: Barrier) -> None:
    ledger = Ledger(file)
    together.wait(300)
    for number in range(25):
        ledger.append(**{**SENT, "run": run, "server_round": number})


def test_two_processes_append_to_one_chain(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2)
    writers = [context.Process(target=append_often, args=(file, run, together)) for run in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    entries = read_ledger(file)
    for run in (1, 2):
        assert [entry.server_round for entry in entries if entry.run == run] == list(range(25))
    assert Ledger(file).bytes_sent() == 50 * SCORES.bytes


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from sites.ledger import Ledger, Released
file = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Ledger(file).append(run=7, message="train", stage=2, server_round=1, verdict="sent", reason="", records=())
except OSError as error:
    print(error.filename, error.strerror)
    sys.exit(3)
"""


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_leaves_the_ledger_as_it_was(tmp_path: Path, room: int) -> None:
    file = tmp_path / "ledger.jsonl"
    entries = write_four(file)
    before = file.read_bytes()
    command = [sys.executable, "-c", _FULL_DISK, str(file), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.startswith(f"{file} ")
    assert file.read_bytes() == before
    again = Ledger(file).append(**SENT)
    assert list(read_ledger(file)) == [*entries, again]


def test_no_flower_and_no_torch_are_needed_to_read_a_ledger() -> None:
    code = "import sys, sites.ledger; sys.exit(any(name in sys.modules for name in ('flwr', 'torch')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=900)
