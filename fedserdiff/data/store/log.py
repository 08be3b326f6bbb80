"""A log of JSON lines that many processes add to and none ever changes: whatever kills one, no record is half there."""

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

from fedserdiff.files import sync, sync_folder

_ENDING = ".jsonl"


class Log:
    """Records in a folder. Each writer has a file of its own, so that none waits for, or spoils, another's.

    A record is there once its line has ended. What a line lacks that was cut off, or is no JSON, is passed over.

    Parameters
    ----------
    folder : Path
        Made when the first record is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = 0, ""
        self._read_to: dict[str, int] = {}
        self._lock = Lock()

    @property
    def name(self) -> str:
        """The writer's name, of this process alone."""
        if self._writer[0] != os.getpid():  # it was forked
            self._writer = os.getpid(), uuid.uuid4().hex  # not the number itself: containers number alike
        return self._writer[1]

    def new_records(self) -> Iterator[tuple[str, Any]]:
        """Yield the records that this object has not yielded before, each behind the name of its writer.

        Raises
        ------
        OSError
            Where the folder, or a file in it, is there and cannot be read.
        """
        with self._lock:
            try:
                names = sorted(os.listdir(self.folder))
            except (FileNotFoundError, NotADirectoryError):
                return
            for file in (self.folder / name for name in names if name.endswith(_ENDING)):
                yield from ((file.stem, record) for record in self._unread(file))

    def _unread(self, file: Path) -> Iterator[Any]:
        start = self._read_to.get(file.name, 0)
        if file.stat().st_size <= start:
            return
        with file.open("rb") as opened:
            opened.seek(start)
            *lines, rest = opened.read().split(b"\n")
            self._read_to[file.name] = opened.tell() - len(rest)
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            yield record

    def append(self, *records: Any) -> None:
        """Add records, which are safe on disk when this returns.

        Raises
        ------
        OSError
            Where they cannot be written.
        """
        text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{self.name}{_ENDING}"
            first = not file.exists()
            with file.open("ab") as opened:
                start = opened.tell()
                try:
                    opened.write(text.encode())
                    opened.flush()
                    sync(opened.fileno())
                except BaseException:
                    opened.truncate(start)  # a full disk took a part of it
                    raise
            if first:
                sync_folder(self.folder)
