"""Maintenance of a cache of prepared cases: list its content, verify it, and delete what has not been used lately."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedserdiff.data.store.sources import Sources
from fedserdiff.data.store.store import ABOUT, Store
from fedserdiff.data.store.stored_case import reading
from fedserdiff.errors import DataError

SOURCES = "sources"
"""Folder of the scans' hashes, beside the stores."""

_DAY_S = 86_400

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Kind:
    """The cases that were prepared with the same settings.

    Attributes
    ----------
    folder : Path
    about : mapping
        Grid, voxel size, modalities and regions; empty if another version of fedserdiff left the folder.
    cases : int
    size : int
        Bytes on disk.
    unused_s : float
        Seconds since the last use.
    """

    folder: Path
    about: dict[str, Any]
    cases: int
    size: int
    unused_s: float


@dataclass(frozen=True)
class Damage:
    """The result of a verification: the number of damaged stored `cases`, and the scans that have `changed`."""

    cases: int
    changed: tuple[Path, ...]


def kinds(root: Path) -> list[Kind]:
    """Return the content of a cache, most recently used first; raise `StorageError` if it cannot be read."""
    found = []
    with reading(root):
        for folder in _stores(root):
            about = _about(folder)
            store = Store(folder)
            store.refresh()
            files = [file for file in folder.rglob("*") if file.is_file()]
            used = (folder / ABOUT).stat().st_mtime if about else folder.stat().st_mtime
            size = sum(file.stat().st_size for file in files)
            found.append(Kind(folder, about, len(store.keys), size, max(time.time() - used, 0.0)))
    return sorted(found, key=lambda kind: kind.unused_s)


def verify(root: Path, progress: Progress = lambda done, total: None) -> Damage:
    """Read every hashed scan that still exists, and every stored case.

    Damaged cases are dropped, and the hashes of changed scans are updated. Both are prepared again when needed.

    Raises
    ------
    StorageError
        If the cache cannot be read or written.
    """
    with reading(root):
        sources, stores = Sources(root / SOURCES), [Store(folder) for folder in _stores(root)]
        sources.refresh()
        for store in stores:
            store.refresh()
        paths = [path for path in sources.paths if path.is_file()]
        total = len(paths) + sum(len(store.keys) for store in stores)
        before, done, changed = dict(sources.hashes(paths)), 0, []
        progress(0, total)
        for path in paths:
            try:
                after = sources.hashes([path], again=True)[path]
            except DataError:
                continue  # training on it reports the fault
            if after[1] != before[path][1]:
                changed.append(path)
            progress(done := done + 1, total)
        damaged = 0
        for store in stores:
            for key in store.keys:
                case = store.find(key)
                if case is None or not case.is_whole():
                    store.drop(key)
                    damaged += 1
                progress(done := done + 1, total)
    return Damage(damaged, tuple(changed))


def prune(root: Path, days: float) -> tuple[list[Kind], int]:
    """Delete what has not been used for `days` days, and what other versions left.

    Returns
    -------
    tuple of (list of Kind, int)
        What was deleted, and its size in bytes.

    Raises
    ------
    StorageError
        If the cache cannot be read, or something in it cannot be deleted.
    """
    gone = [kind for kind in kinds(root) if not kind.about or kind.unused_s > days * _DAY_S]
    with reading(root):
        for kind in gone:
            shutil.rmtree(kind.folder)
    return gone, sum(kind.size for kind in gone)


def _stores(root: Path) -> Iterator[Path]:
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if folder.is_dir() and folder.name != SOURCES:
            yield folder


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"grid", "spacing_mm", "modalities", "regions"} <= set(found) else {}
