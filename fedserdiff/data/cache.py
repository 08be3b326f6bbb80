"""Prepared cases on disk, found by the content of their files and the settings that made them."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import nibabel as nib
import torch

from fedserdiff.data.cases import BadCases, Case, settle
from fedserdiff.data.preprocess import PreparedCase, prepare_case
from fedserdiff.data.store.sources import Sources, Stamp
from fedserdiff.data.store.store import Store
from fedserdiff.data.store.stored_case import reading
from fedserdiff.data.store.upkeep import SOURCES
from fedserdiff.device import room_on
from fedserdiff.errors import DataError, Faults, StorageError, reason_of

_FORMAT = 7  # part of the key: raise it when preparation changes
_Known = Mapping[Path, tuple[Stamp, bytes]]  # a case's files, in its order, with their hashes
_HOST = torch.device("cpu")
_BYTES_A_VOXEL = 16  # of one modality, while a case is prepared (measured at 1 mm: 13)


@dataclass(frozen=True)
class CachedCase:
    """A case and its prepared arrays, which stay on disk until they are read.

    `key` stands for the content of the case's files and for the settings; empty where the case is in no cache.
    """

    case: Case
    prepared: PreparedCase
    key: str = ""


def cached_cases(
    cases: Sequence[Case],
    grid: tuple[int, int, int],
    spacing_mm: float,
    root: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    bad: BadCases | None = None,
) -> list[CachedCase]:
    """Return `cases` prepared for `grid`, preparing those that are not in the cache under `root` yet.

    Cases that cannot be used are entered in `bad`, by name; without it they are refused, once the others are prepared.
    `progress` counts only cases that are prepared, or whose files are read: it is not called where all are there.

    A file whose size, time of change and number on its disk are as they were is not read again:
    `fedserdiff.data.store.upkeep.verify` reads all. Cases that are prepared appear whole or not at all, whatever ends
    the process, and several processes may fill one cache.

    Raises
    ------
    BadCasesError
        Without `bad`: of all cases that `prepare_case` refuses, or of which a file changes while they are prepared.
    StorageError
        Where the cache cannot be written, or not be read for now; what it holds stays as it is.
    """
    root = root.absolute()  # a process may change its folder and go on
    sources = _sources(root / SOURCES)
    with reading(root):
        sources.refresh()
        for store in {_store_of(case, grid, spacing_mm, root) for case in cases}:
            store.refresh()
            store.touch()

    room = _Room()

    def attempt(case: Case) -> CachedCase | tuple[str, ...]:
        try:
            return _prepared(case, grid, spacing_mm, root, sources, room)
        except DataError as error:
            return error.faults

    def there(case: Case) -> CachedCase | None:
        known = sources.known(case.files)
        return None if known is None else _stored(case, grid, spacing_mm, root, known)

    found: BadCases = {}
    with _workers() as workers:  # decompression and numpy leave the interpreter free
        try:
            ready = list(workers.map(there, cases))
            missing = [number for number, case in enumerate(ready) if case is None]
            if missing:
                progress(0, len(missing))
            outcomes = workers.map(attempt, (cases[number] for number in missing))
            for done, (number, outcome) in enumerate(zip(missing, outcomes, strict=True), 1):
                if isinstance(outcome, CachedCase):
                    ready[number] = outcome
                else:
                    found[cases[number].name] = outcome
                progress(done, len(missing))
        except BaseException:
            workers.shutdown(cancel_futures=True)  # neither a full disk nor an interrupt waits for the rest
            raise
    settle(found, bad)
    return [case for case in ready if case is not None]


def _workers() -> ThreadPoolExecutor:
    """Return a thread for each CPU; each computes alone."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "prepare", torch.set_num_threads, (1,))


class _Room:
    """Lets as many cases be prepared at once as half of the free memory has room for, by the first one's size.

    A start that finds all cases prepared reads no scan to learn that.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: Semaphore | None = None

    def places(self, case: Case) -> Semaphore:
        """Return what a thread holds while it prepares a case."""
        with self._lock:
            if self._places is None:
                need = _BYTES_A_VOXEL * len(case.images) * _voxels(case.images[0])
                self._places = Semaphore(max(1, room_on(_HOST) // 2 // max(need, 1)))
            return self._places


def _voxels(image: Path) -> int:
    """Return how many voxels a scan's header tells of; those of a BraTS scan where it cannot be read."""
    try:
        return math.prod(nib.load(image).header.get_data_shape())
    except Exception:  # noqa: BLE001 - what is wrong with it is said when it is prepared
        return 240 * 240 * 155


@lru_cache(maxsize=64)
def _sources(folder: Path) -> Sources:
    return Sources(folder)


@lru_cache(maxsize=64)
def _store(folder: Path) -> Store:
    return Store(folder)


def _store_of(case: Case, grid: tuple[int, int, int], spacing_mm: float, root: Path) -> Store:
    return _store(root / hashlib.sha256(_kind(case, grid, spacing_mm).encode()).hexdigest()[:16])


def _prepared(
    case: Case, grid: tuple[int, int, int], spacing_mm: float, root: Path, sources: Sources, room: _Room
) -> CachedCase:
    """Return one case from the cache, preparing it where it is not there or damaged."""
    with _writing(root):
        known = sources.hashes(case.files)
    if stored := _stored(case, grid, spacing_mm, root, known):
        return stored
    try:
        with room.places(case):
            fresh = prepare_case(case, grid, spacing_mm)
    except MemoryError:
        raise StorageError(f"{case.seg.parent}: {case.name}: cannot be prepared (out of memory)") from None
    _check_unchanged({path: stamp for path, (stamp, _) in known.items()})
    key = _key(known, case, grid, spacing_mm)
    with _writing(root):
        kept = _store_of(case, grid, spacing_mm, root).keep(key, fresh, _about(case, grid, spacing_mm))
    return CachedCase(case, kept, key)


def _stored(case: Case, grid: tuple[int, int, int], spacing_mm: float, root: Path, known: _Known) -> CachedCase | None:
    """Return one case whose files' content is known, if it is in the cache."""
    store, key = _store_of(case, grid, spacing_mm, root), _key(known, case, grid, spacing_mm)
    with reading(store.folder):
        stored = store.find(key)
    return None if stored is None else CachedCase(case, stored, key)


def _check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """See that no file has changed since its content was hashed."""
    faults = Faults(DataError)
    for path, stamp in stamps.items():
        try:
            same = Stamp.of(path) == stamp
        except OSError:
            same = False
        if not same:
            faults.add(f"{path}: changed while it was being read: run again once it stays as it is")
    faults.check()


def _kind(case: Case, grid: tuple[int, int, int], spacing_mm: float) -> str:
    """Return what, beside its files, decides what is made of a case."""
    return json.dumps({"format": _FORMAT, **_about(case, grid, spacing_mm)})


def _about(case: Case, grid: tuple[int, int, int], spacing_mm: float) -> dict[str, Any]:
    """Return what all cases of one store have in common."""
    meaning = case.convention
    return {
        "grid": list(grid),
        "spacing_mm": spacing_mm,
        "modalities": list(meaning.modalities),
        "channels": list(case.channels),
        "regions": {name: list(values) for name, values in meaning.regions.items()},
        "labels": list(meaning.labels),
    }


def _key(known: _Known, case: Case, grid: tuple[int, int, int], spacing_mm: float) -> str:
    digest = hashlib.sha256(_kind(case, grid, spacing_mm).encode())
    for _, content in known.values():
        digest.update(content)
    return digest.hexdigest()[:32]


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{root}: prepared cases cannot be kept there ({reason_of(error)})") from None
