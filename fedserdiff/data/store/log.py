"""An append-only log of JSON lines for many processes; a killed process leaves no partial record."""

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
    """A folder of records. Each writer has its own file, so that writers neither wait for nor damage each other.

    A record exists once its line is complete. Truncated lines, and lines that are not JSON, are ignored.

    Parameters
    ----------
    folder : Path
        Created when the first record is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = 0, ""
        self._read_to: dict[str, int] = {}
        self._lock = Lock()

    @property
    def name(self) -> str:
        """Unique name of this process as a writer."""
        if self._writer[0] != os.getpid():  # the process was forked
            self._writer = os.getpid(), uuid.uuid4().hex  # not the process id itself: containers reuse the same ids
        return self._writer[1]

    def new_records(self) -> Iterator[tuple[str, Any]]:
        """Yield (writer name, record) for all records that this object has not yielded before.

        Raises
        ------
        OSError
            If the folder or a file in it exists but cannot be read.
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
        """Add records; they are safely on disk when this returns.

        Raises
        ------
        OSError
            If the records cannot be written.
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
                    opened.truncate(start)  # a full disk may have taken a part
                    raise
            if first:
                sync_folder(self.folder)
