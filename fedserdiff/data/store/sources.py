"""What the content of files is, without reading those again that are as they were when they were read."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from fedserdiff.data.nifti import open_file
from fedserdiff.data.store.log import Log
from fedserdiff.errors import DataError, Faults

_SETTLED_NS = 2 * 10**9
"""A file younger than this when it was read may change once more within one tick of its file system's clock."""


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is another one than before: its size, time of change and number on its disk."""

    size: int
    time_ns: int
    inode: int

    @classmethod
    def of(cls, descriptor: int | Path) -> "Stamp":
        """Return a file's; raises OSError where there is none."""
        found = os.stat(descriptor)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class Sources:
    """SHA-256 of files, kept under a folder.

    Parameters
    ----------
    folder : Path
        Of the log.
    """

    def __init__(self, folder: Path) -> None:
        self._log = Log(folder)
        self._known: dict[str, tuple[Stamp, bytes]] = {}
        self._read_ns: dict[str, int] = {}
        self._lock = Lock()

    def refresh(self) -> None:
        """Take in what other processes have read since.

        Raises
        ------
        OSError
            Where the log is there and cannot be read.
        """
        with self._lock:
            for _, record in self._log.new_records():
                try:
                    path, size, time_ns, inode, content, read_ns = record
                    if self._read_ns.get(str(path), 0) < int(read_ns):  # logs are in no order
                        self._known[str(path)] = Stamp(int(size), int(time_ns), int(inode)), bytes.fromhex(content)
                        self._read_ns[str(path)] = int(read_ns)
                except (TypeError, ValueError):
                    continue

    @property
    def paths(self) -> list[Path]:
        """The files that are known."""
        return [Path(path) for path in self._known]

    def known(self, files: Iterable[Path]) -> dict[Path, tuple[Stamp, bytes]] | None:
        """Return what `hashes` would, where that would read no file; else None."""
        found: dict[Path, tuple[Stamp, bytes]] = {}
        for path in files:
            known = self._known.get(str(path))
            if known is None or known[0] != _stamp(path):
                return None
            found[path] = known
        return found

    def hashes(self, files: Iterable[Path], again: bool = False) -> dict[Path, tuple[Stamp, bytes]]:
        """Return each file's stamp and SHA-256; every one is read where it is to be read `again`.

        Raises
        ------
        DataError
            Of all files that cannot be read.
        OSError
            Where what was read cannot be written down; the hashes are had again by reading.
        """
        found: dict[Path, tuple[Stamp, bytes]] = {}
        new: list[Any] = []
        faults = Faults(DataError)
        for path in files:
            known = None if again else self._known.get(str(path))
            if known is not None and known[0] == _stamp(path):
                found[path] = known
                continue
            with faults.caught(), open_file(path) as file:
                stamp, read_ns = Stamp.of(file.fileno()), time.time_ns()
                found[path] = stamp, hashlib.file_digest(file, "sha256").digest()
                if stamp.time_ns < read_ns - _SETTLED_NS:
                    new.append([str(path), stamp.size, stamp.time_ns, stamp.inode, found[path][1].hex(), read_ns])
                    self._known[str(path)], self._read_ns[str(path)] = found[path], read_ns
        faults.check()
        if new:
            self._log.append(*new)
        return found


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path)
    except OSError:
        return None
