"""Cases of one kind of preparation, found by what stands for the content of their files."""

import dataclasses
from pathlib import Path
from threading import Lock

from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.data.store.log import Log
from fedserdiff.data.store.stored_case import Entry, StoredCase, encoded
from fedserdiff.files import sync

_ENDING = ".cases"


class Store:
    """A folder of files of cases, and a log of what is where in them.

    Each process that adds cases has a file of its own: nobody waits, and no process spoils what another wrote. The
    bytes of a case are safe on disk before the log tells of them, so that whatever ends a process leaves whole cases.

    Parameters
    ----------
    folder : Path
        Made when the first case is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = Log(folder)
        self._entries: dict[str, tuple[str, Entry]] = {}
        self._sizes: dict[str, int] = {}
        self._lock = Lock()

    def refresh(self) -> None:
        """Take in what other processes have added; raises OSError where it is there and cannot be read."""
        with self._lock:
            self._sizes.clear()
            for writer, record in self._log.new_records():
                try:
                    key, values = record
                    self._entries[str(key)] = writer, Entry.from_dict(values)
                except (TypeError, ValueError):
                    continue

    def find(self, key: str) -> StoredCase | None:
        """Return a case, or None where it is not there, or its bytes are not; raises OSError where nobody knows."""
        writer, entry = self._entries.get(key, ("", None))
        if entry is None:
            return None
        file = self.folder / f"{writer}{_ENDING}"
        with self._lock:
            if writer not in self._sizes:
                self._sizes[writer] = _size(file)
            return StoredCase(file, entry) if entry.at + entry.size <= self._sizes[writer] else None

    def keep(self, key: str, prepared: PreparedCase) -> StoredCase:
        """Add a case, in place of another of this key; raises OSError where it cannot be written."""
        entry, content = encoded(prepared)
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            writer = self._log.name
            file = self.folder / f"{writer}{_ENDING}"
            with file.open("ab") as opened:
                start = opened.tell()
                try:
                    entry = dataclasses.replace(entry, at=start)
                    opened.write(content)
                    opened.flush()
                    sync(opened.fileno())
                    self._log.append([key, dataclasses.asdict(entry)])
                except BaseException:
                    opened.truncate(start)
                    raise
            self._entries[key] = writer, entry
            self._sizes.pop(writer, None)
        return StoredCase(file, entry)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
