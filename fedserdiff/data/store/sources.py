"""Content hashes of files, which are read again only if they have changed."""

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
"""A file younger than this when read may change again within the same tick of the file system's clock."""


@dataclass(frozen=True)
class Stamp:
    """The size, modification time and inode of a file; if one differs, the file has changed."""

    size: int
    time_ns: int
    inode: int

    @classmethod
    def of(cls, descriptor: int | Path) -> "Stamp":
        """Return the stamp of a file; raise OSError if it does not exist."""
        found = os.stat(descriptor)
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class Sources:
    """SHA-256 hashes of files, stored in a folder.

    Parameters
    ----------
    folder : Path
        Folder of the log.
    """

    def __init__(self, folder: Path) -> None:
        self._log = Log(folder)
        self._known: dict[str, tuple[Stamp, bytes]] = {}
        self._read_ns: dict[str, int] = {}
        self._lock = Lock()

    def refresh(self) -> None:
        """Load the hashes that other processes have added.

        Raises
        ------
        OSError
            If the log exists but cannot be read.
        """
        with self._lock:
            for _, record in self._log.new_records():
                try:
                    path, size, time_ns, inode, content, read_ns = record
                    if self._read_ns.get(str(path), 0) < int(read_ns):  # logs are not in order
                        self._known[str(path)] = Stamp(int(size), int(time_ns), int(inode)), bytes.fromhex(content)
                        self._read_ns[str(path)] = int(read_ns)
                except (TypeError, ValueError):
                    continue

    @property
    def paths(self) -> list[Path]:
        """Files whose hashes are known."""
        return [Path(path) for path in self._known]

    def known(self, files: Iterable[Path]) -> dict[Path, tuple[Stamp, bytes]] | None:
        """Return the same as `hashes` if that needs to read no file, else None."""
        found: dict[Path, tuple[Stamp, bytes]] = {}
        for path in files:
            known = self._known.get(str(path))
            if known is None or known[0] != _stamp(path):
                return None
            found[path] = known
        return found

    def hashes(self, files: Iterable[Path], again: bool = False) -> dict[Path, tuple[Stamp, bytes]]:
        """Return each file's stamp and SHA-256; `again` forces every file to be read.

        Raises
        ------
        DataError
            If files cannot be read; the error covers all of them.
        OSError
            If the hashes cannot be written to the log; they can be computed again later.
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
