"""A store of cases that were prepared with the same settings, indexed by the content of their files."""

import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.data.store.log import Log
from fedserdiff.data.store.stored_case import Entry, StoredCase, encoded
from fedserdiff.files import sync

_ENDING = ".cases"

ABOUT = "about.json"
"""File that describes a store, for people and `fedserdiff.data.store.upkeep`; its time is that of the last use."""


class Store:
    """A folder of case files, with a log of the position of each case in them.

    Each process adds cases to its own file, so processes neither wait for nor damage each other. The bytes of a case
    are safely on disk before the log records them, so a killed process leaves only complete cases.

    Parameters
    ----------
    folder : Path
        Created when the first case is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = Log(folder)
        self._entries: dict[str, dict[str, Entry]] = {}  # by key, then by writer: several may have prepared one case
        self._dropped: set[tuple[str, str, int]] = set()
        self._sizes: dict[str, int] = {}
        self._lock = Lock()

    def refresh(self) -> None:
        """Load what other processes have added; raise OSError if it exists but cannot be read."""
        with self._lock:
            self._sizes.clear()
            for writer, record in self._log.new_records():
                try:
                    key, values = record
                    if "dropped" in values:
                        self._dropped.add((str(key), str(values["dropped"]), int(values["at"])))
                    else:
                        self._entries.setdefault(str(key), {})[writer] = Entry.from_dict(values)
                except (TypeError, ValueError):
                    continue

    def touch(self) -> None:
        """Record that the store is in use, if that is possible."""
        with suppress(OSError):
            os.utime(self.folder / ABOUT)

    @property
    def keys(self) -> list[str]:
        """Keys of the stored cases."""
        return list(self._entries)

    def drop(self, key: str) -> None:
        """Drop a case, so that it is prepared again when needed; raise OSError if the log cannot be written."""
        for writer, entry in self._entries.pop(key, {}).items():
            self._dropped.add((key, writer, entry.at))
            self._log.append([key, {"dropped": writer, "at": entry.at}])

    def find(self, key: str) -> StoredCase | None:
        """Return a case, or None if it or its bytes are missing; raise OSError if the files cannot be inspected."""
        with self._lock:
            for writer, entry in self._entries.get(key, {}).items():
                file = self.folder / f"{writer}{_ENDING}"
                if writer not in self._sizes:
                    self._sizes[writer] = _size(file)
                if (key, writer, entry.at) not in self._dropped and entry.at + entry.size <= self._sizes[writer]:
                    return StoredCase(file, entry)
        return None

    def keep(self, key: str, prepared: PreparedCase, about: Mapping[str, Any]) -> StoredCase:
        """Store a case, in place of any other with this key; `about` describes the store for people.

        Raises
        ------
        OSError
            If the case cannot be written.
        """
        entry, content = encoded(prepared)
        with self._lock:
            writer = self._log.name
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / ABOUT).exists():  # under a unique name: several processes may write it at once
                partial = self.folder / f"{writer}.partial"
                partial.write_text(json.dumps(about, indent=1))
                partial.replace(self.folder / ABOUT)
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
            self._entries.setdefault(key, {})[writer] = entry
            self._sizes.pop(writer, None)
        return StoredCase(file, entry)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
