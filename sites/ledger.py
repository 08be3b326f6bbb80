"""A hospital's ledger: one line for every decision about what leaves it, each sealed to the one before by its hash."""

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
"""In a hospital's folder: one line for every answer that left it or was held back."""

SENT, REFUSED, FAULT = "sent", "refused", "fault"
VERDICTS = (SENT, REFUSED, FAULT)

NO_HASH = "0" * 64  # what the first entry names as the hash of the entry before it

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
        Such as ``arrays``, of type ``ArrayRecord``.
    arrays : mapping
        What is in it, by array name, such as ``float32[16, 4, 3, 3]``; empty for records without arrays.
    bytes : int
        Its payload, as the coordinator counts it.
    sha256 : str
        Of the record's canonical bytes, in hexadecimal.
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
        Place in the ledger, from 1, and Flower's id of the run.
    time : str
        UTC, such as ``2026-01-31T12:00:00Z``.
    message : str
        Type of the message that was answered: ``query``, ``train``, ``train.consolidate`` or ``evaluate``.
    stage, server_round : int or None
        As the coordinator's order says; None where it says none.
    verdict, reason : str
        One of `VERDICTS`, and why; the reason is empty when sent.
    records : tuple of Released
        What left; where the verdict is ``refused``, what was not let out.
    bytes : int
        How much left: the records' sum when sent, else 0.
    previous, hash : str
        The hash of the entry before this one, `NO_HASH` in the first; and this one's: SHA-256, in hexadecimal, of
        `previous` followed by the JSON of all fields but these two, keys sorted, without spaces, in ASCII.
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

    What stands there is verified before anything is added: a broken ledger takes no entry, so nothing leaves.

    Parameters
    ----------
    file : Path
        JSON lines, one an entry; written at the first entry, readable by its owner alone.
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
            If the entry cannot be written; the ledger is then as it was.
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
            entry = _verified(line, self._seen)  # nothing is written that would not be read again
            if self._seen.number == 0:
                sync_folder(self._file.parent)
            _write_or_undo(file, line + b"\n", self._seen.size)
            self._seen = self._seen.then(entry, line)
            return entry

    def bytes_sent(self) -> int:
        """Return how much has left; reads what is new since the last call, and raises DataError where it is broken."""
        if self._seen.number or self._file.exists():
            with _opened(self._file, "rb") as file:
                self._catch_up(file)
        return self._seen.sent

    def digests_sent(self, record: str) -> set[str]:
        """Return the digests of all records of this name that have left; raises as `read_ledger`."""
        if not self._file.exists():
            return set()
        sent = [entry for entry in read_ledger(self._file) if entry.verdict == SENT]
        return {r.sha256 for entry in sent for r in entry.records if r.name == record}

    def _catch_up(self, file: io.FileIO) -> bytes:
        """Verify what is new and return the torn line at the end, empty where there is none."""
        if os.fstat(file.fileno()).st_size < self._seen.size:
            raise DataError(f"{self._file}: shorter than its {self._seen.number} entries: it was cut while in use")
        file.seek(self._seen.size)
        *lines, torn = file.readall().split(b"\n")
        for line in lines:
            self._seen = self._seen.then(_entry_at(self._file, line, self._seen), line)
        return torn

    def _set_aside(self, file: io.FileIO, torn: bytes) -> None:
        """Move what a power cut left of an entry out of the chain's way; nothing left on its account."""
        with _opened(self._file.with_name(f"{self._file.name}.torn"), "a+b") as side:
            _write_or_undo(side, torn + b"\n", os.fstat(side.fileno()).st_size)
        file.truncate(self._seen.size)


def read_ledger(file: Path) -> tuple[Entry, ...]:
    """Verify a ledger and return its entries.

    A ledger that was cut off at the end of a line is a whole, shorter ledger: only a hash noted elsewhere shows it.

    Raises
    ------
    DataError
        At the first line that is broken, with its number and what is wrong with it.
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
            f"lines before it are whole. The hospital's next entry moves it to {file.name}.torn"
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
    """Return the entry that is next after `seen`; a ValueError says what is wrong with it."""
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
        raise ValueError(f"holds entry {values['number']}: a line is missing, doubled or out of place")
    if values["previous"] != seen.head:
        raise ValueError("names another entry before it than the one that stands there")
    rest = {name: value for name, value in values.items() if name not in ("previous", "hash")}
    if values["hash"] != _seal(seen.head, rest) or line != _canonical(values):
        raise ValueError("is not what its hash was made of: the line was changed")
    if values["verdict"] not in VERDICTS:
        raise ValueError(f"its verdict is none of {', '.join(VERDICTS)}")
    left = sum(record["bytes"] for record in values["records"]) if values["verdict"] == SENT else 0
    if values["bytes"] != left or any(record["bytes"] < 0 for record in values["records"]):
        raise ValueError(f"says that {values['bytes']} bytes left, but its records and verdict make {left}")
    return Entry(**values | {"records": tuple(Released(**record) for record in values["records"])})


def _check_fields(values: Any, fields: _Types, what: str) -> None:
    """Check names and types exactly; a bool is no int here."""
    if type(values) is not dict or values.keys() != fields.keys():
        raise ValueError(f"{what} has not exactly the fields {', '.join(fields)}")
    for name, types in fields.items():
        if type(values[name]) not in types:
            raise ValueError(f"{what}'s {name} is of the wrong type")


def _canonical(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _seal(previous: str, values: Mapping[str, object]) -> str:
    return hashlib.sha256(previous.encode("ascii") + _canonical(values)).hexdigest()


@contextmanager
def _opened(path: Path, mode: Literal["rb", "a+b"]) -> Iterator[io.FileIO]:
    """Open unbuffered, so that a write is one call of the system, and locked until it is closed."""
    try:
        with open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            lock(file.fileno(), shared=mode == "rb")
            yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _write_or_undo(file: io.FileIO, line: bytes, size: int) -> None:
    """Append `line` to a file of `size` bytes and see it to the disk; where that fails, take back what was written."""
    try:
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, "no room for the whole entry")
        sync(file.fileno())
    except BaseException:
        file.truncate(size)
        raise
