"""A hospital's ledger: one line for every decision about what leaves it, chained by hashes."""

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from fedserdiff.errors import DataError
from fedserdiff.files import sync, sync_folder
from fedserdiff.locks import lock

LEDGER_FILE = "ledger.jsonl"
"""File in a hospital's folder with one line for every answer that left or was held back."""

SENT, REFUSED, FAULT = "sent", "refused", "fault"
VERDICTS = (SENT, REFUSED, FAULT)

NO_HASH = "0" * 64  # previous hash of the first entry

_Types = Mapping[str, tuple[type, ...]]
_FIELDS: _Types = {
    **dict.fromkeys(("number", "run", "bytes"), (int,)),
    **dict.fromkeys(("stage", "server_round"), (int, NoneType)),
    **dict.fromkeys(("time", "message", "verdict", "reason", "previous", "hash"), (str,)),
    "records": (list,),
}
_RECORD_FIELDS: _Types = {**dict.fromkeys(("name", "kind", "sha256"), (str,)), "arrays": (dict,), "bytes": (int,)}


@dataclass(frozen=True)
class Released:
    """One record of a reply.

    Parameters
    ----------
    name, kind : str
        Name and type of the record, such as ``arrays`` and ``ArrayRecord``.
    arrays : mapping
        Type and shape by array name, such as ``float32[16, 4, 3, 3]``; empty for records without arrays.
    bytes : int
        Payload size, as the coordinator counts it.
    sha256 : str
        Hash of the record's canonical bytes, in hexadecimal.
    """

    name: str
    kind: str
    arrays: Mapping[str, str]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One decision about a reply.

    Parameters
    ----------
    number, run : int
        Position in the ledger, from 1, and Flower's id of the run.
    time : str
        Time in UTC, such as ``2026-01-31T12:00:00Z``.
    message : str
        Type of the answered message: ``query``, ``train``, ``train.consolidate`` or ``evaluate``.
    stage, server_round : int or None
        Stage and round in the coordinator's order; None if it has none.
    verdict, reason : str
        One of `VERDICTS` and its reason; the reason is empty if the reply was sent.
    records : tuple of Released
        Records that left or, if the verdict is ``refused``, that were held back.
    bytes : int
        Bytes that left: the sum over records if sent, otherwise 0.
    previous, hash : str
        Hash of the previous entry (`NO_HASH` for the first) and of this entry. The latter is the SHA-256, in
        hexadecimal, of `previous` followed by the JSON of all fields except these two: sorted keys, no spaces, ASCII.
    """

    number: int
    time: str
    run: int
    message: str
    stage: int | None
    server_round: int | None
    verdict: str
    reason: str
    records: tuple[Released, ...]
    bytes: int
    previous: str
    hash: str


class Ledger:
    """The ledger of one hospital, to which all its processes may append.

    Existing entries are verified before one is added. A broken ledger accepts no entry, so nothing leaves.

    Parameters
    ----------
    file : Path
        JSON lines file with one line for each entry; created at the first entry, readable only by its owner.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _Seen()

    def append(
        self,
        *,
        run: int,
        message: str,
        stage: int | None,
        server_round: int | None,
        verdict: str,
        reason: str,
        records: Sequence[Released],
    ) -> Entry:
        """Add an entry and return it once it is safe on disk.

        Raises
        ------
        DataError
            If the ledger is broken.
        OSError
            If the entry cannot be written; the ledger is then unchanged.
        """
        if verdict not in VERDICTS or len(reason.splitlines()) > 1:
            raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, and a reason is one line")
        with _opened(self._file, "a+b") as file:
            torn = self._catch_up(file)
            if torn:
                self._set_aside(file, torn)
            values = {
                "number": self._seen.number + 1,
                "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "run": run,
                "message": message,
                "stage": stage,
                "server_round": server_round,
                "verdict": verdict,
                "reason": reason,
                "records": [vars(record) | {"arrays": dict(record.arrays)} for record in records],
                "bytes": sum(record.bytes for record in records) if verdict == SENT else 0,
            }
            sealed = values | {"previous": self._seen.head, "hash": _seal(self._seen.head, values)}
            line = _canonical(sealed)
            entry = _verified(line, self._seen)  # write nothing that could not be read again
            if self._seen.number == 0:
                sync_folder(self._file.parent)
            _write_or_undo(file, line + b"\n", self._seen.size)
            self._seen = self._seen.then(entry, line)
            return entry

    def bytes_sent(self) -> int:
        """Return the bytes that have left; read new entries since the last call, and raise DataError if they are
        broken."""
        if self._seen.number or self._file.exists():
            with _opened(self._file, "rb") as file:
                self._catch_up(file)
        return self._seen.sent

    def digests_sent(self, record: str) -> set[str]:
        """Return the digests of all records of this name that have left; raise as `read_ledger` does."""
        if not self._file.exists():
            return set()
        sent = [entry for entry in read_ledger(self._file) if entry.verdict == SENT]
        return {r.sha256 for entry in sent for r in entry.records if r.name == record}

    def _catch_up(self, file: io.FileIO) -> bytes:
        """Verify new entries; return an incomplete last line, or an empty one."""
        if os.fstat(file.fileno()).st_size < self._seen.size:
            raise DataError(f"{self._file}: shorter than its {self._seen.number} entries: it was cut while in use")
        file.seek(self._seen.size)
        *lines, torn = file.readall().split(b"\n")
        for line in lines:
            self._seen = self._seen.then(_entry_at(self._file, line, self._seen), line)
        return torn

    def _set_aside(self, file: io.FileIO, torn: bytes) -> None:
        """Move an incomplete last line, such as after a power cut, out of the chain; nothing was sent for it."""
        with _opened(self._file.with_name(f"{self._file.name}.torn"), "a+b") as side:
            _write_or_undo(side, torn + b"\n", os.fstat(side.fileno()).st_size)
        file.truncate(self._seen.size)


def read_ledger(file: Path) -> tuple[Entry, ...]:
    """Verify a ledger and return its entries.

    A ledger that was cut off at the end of a line is a valid, shorter ledger: only a hash noted elsewhere reveals it.

    Raises
    ------
    DataError
        At the first broken line, with its number and what is wrong with it.
    """
    with _opened(file, "rb") as opened:
        *lines, torn = opened.readall().split(b"\n")
    entries, seen = [], _Seen()
    for line in lines:
        entries.append(_entry_at(file, line, seen))
        seen = seen.then(entries[-1], line)
    if torn:
        raise DataError(
            f"{file}, line {seen.number + 1}: torn: writing was interrupted, or the file was cut. The {seen.number} "
            f"lines before it are intact. The hospital's next entry moves it to {file.name}.torn"
        )
    return tuple(entries)


@dataclass(frozen=True)
class _Seen:
    """The part of a ledger that has been verified."""

    size: int = 0
    number: int = 0
    head: str = NO_HASH
    sent: int = 0

    def then(self, entry: Entry, line: bytes) -> "_Seen":
        return _Seen(self.size + len(line) + 1, entry.number, entry.hash, self.sent + entry.bytes)


def _entry_at(file: Path, line: bytes, seen: _Seen) -> Entry:
    try:
        return _verified(line, seen)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}, line {seen.number + 1}: {error}") from None


def _verified(line: bytes, seen: _Seen) -> Entry:
    """Verify and return the entry that follows `seen`; raise a ValueError that says what is wrong with it."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON: the line was changed or damaged") from None
    _check_fields(values, _FIELDS, "an entry")
    for record in values["records"]:
        _check_fields(record, _RECORD_FIELDS, "a record")
        if any(type(about) is not str for about in record["arrays"].values()):
            raise ValueError("a record's arrays are not described by text")
    if values["number"] != seen.number + 1:
        raise ValueError(f"contains entry {values['number']}: a line is missing, duplicated or out of place")
    if values["previous"] != seen.head:
        raise ValueError("its previous hash is not that of the entry before it")
    rest = {name: value for name, value in values.items() if name not in ("previous", "hash")}
    if values["hash"] != _seal(seen.head, rest) or line != _canonical(values):
        raise ValueError("its hash does not match its content: the line was changed")
    if values["verdict"] not in VERDICTS:
        raise ValueError(f"its verdict is none of {', '.join(VERDICTS)}")
    left = sum(record["bytes"] for record in values["records"]) if values["verdict"] == SENT else 0
    if values["bytes"] != left or any(record["bytes"] < 0 for record in values["records"]):
        raise ValueError(f"says that {values['bytes']} bytes left, but its records and verdict give {left}")
    return Entry(**values | {"records": tuple(Released(**record) for record in values["records"])})


def _check_fields(values: Any, fields: _Types, what: str) -> None:
    """Check names and types exactly; a bool does not count as an int."""
    if type(values) is not dict or values.keys() != fields.keys():
        raise ValueError(f"{what} does not have exactly the fields {', '.join(fields)}")
    for name, types in fields.items():
        if type(values[name]) not in types:
            raise ValueError(f"{what}'s {name} has the wrong type")


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _seal(previous: str, values: Mapping[str, object]) -> str:
    return hashlib.sha256(previous.encode("ascii") + _canonical(values)).hexdigest()


@contextmanager
def _opened(path: Path, mode: Literal["rb", "a+b"]) -> Iterator[io.FileIO]:
    """Open unbuffered, so that a write is a single system call, and locked until the file is closed."""
    try:
        with open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            lock(file.fileno(), shared=mode == "rb")
            yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _write_or_undo(file: io.FileIO, line: bytes, size: int) -> None:
    """Append `line` to a file of `size` bytes and sync it to disk; undo the write if that fails."""
    try:
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "no room for the whole entry")
        sync(file.fileno())
    except BaseException:
        file.truncate(size)
        raise
