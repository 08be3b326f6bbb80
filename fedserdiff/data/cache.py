"""The cache of prepared cases on disk, indexed by the content of their files and the preparation settings."""

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

_FORMAT = 7  # part of the key: increase it when preparation changes
_Known = Mapping[Path, tuple[Stamp, bytes]]  # a case's files in order, with their hashes
_HOST = torch.device("cpu")
_BYTES_A_VOXEL = 16  # of one modality, during preparation (measured at 1 mm: 13)


@dataclass(frozen=True)
class CachedCase:
    """A case with its prepared arrays, which stay on disk until they are read.

    `key` identifies the content of the case's files and the settings; it is empty if the case is not in a cache.
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
    """Return `cases` prepared for `grid`; prepare those that are not yet in the cache under `root`.

    Cases that cannot be used are added to `bad`, by name; without `bad`, they raise an error once the others are
    prepared. `progress` counts only cases that are prepared or whose files are read. It is not called if the cache
    holds all cases.

    A file whose size, modification time and inode are unchanged is not read again;
    `fedserdiff.data.store.upkeep.verify` reads all files. A case is stored completely or not at all, even if the
    process is killed. Several processes may fill one cache.

    Raises
    ------
    BadCasesError
        Without `bad`: names all cases that `prepare_case` refuses, or whose files change during preparation.
    StorageError
        If the cache cannot be written or read at the moment; its content stays unchanged.
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
    with _workers() as workers:  # decompression and NumPy release the interpreter lock
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
            workers.shutdown(cancel_futures=True)  # a full disk or an interrupt does not wait for the rest
            raise
    settle(found, bad)
    return [case for case in ready if case is not None]


def _workers() -> ThreadPoolExecutor:
    """Return a pool with one thread per CPU, each of which computes single-threaded."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "prepare", torch.set_num_threads, (1,))


class _Room:
    """A limit on how many cases are prepared at once: as many as fit half of the free memory.

    The limit comes from the size of the first case that needs preparation, so a start with a full cache reads no scan.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._places: Semaphore | None = None

    def places(self, case: Case) -> Semaphore:
        """Return the semaphore that a thread holds while it prepares a case."""
        with self._lock:
            if self._places is None:
                need = _BYTES_A_VOXEL * len(case.images) * _voxels(case.images[0])
                self._places = Semaphore(max(1, room_on(_HOST) // 2 // max(need, 1)))
            return self._places


def _voxels(image: Path) -> int:
    """Return the number of voxels in a scan's header, or that of a BraTS scan if it cannot be read."""
    try:
        return math.prod(nib.load(image).header.get_data_shape())
    except Exception:  # noqa: BLE001 - preparation reports what is wrong with it
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
    """Return one case from the cache; prepare it if it is missing or damaged."""
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
    """Return one case whose file hashes are known, if it is in the cache."""
    store, key = _store_of(case, grid, spacing_mm, root), _key(known, case, grid, spacing_mm)
    with reading(store.folder):
        stored = store.find(key)
    return None if stored is None else CachedCase(case, stored, key)


def _check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Check that no file has changed since its content was hashed."""
    faults = Faults(DataError)
    for path, stamp in stamps.items():
        try:
            same = Stamp.of(path) == stamp
        except OSError:
            same = False
        if not same:
            faults.add(f"{path}: changed while it was being read: run again once it no longer changes")
    faults.check()


def _kind(case: Case, grid: tuple[int, int, int], spacing_mm: float) -> str:
    """Return everything that determines how a case is prepared, apart from its files."""
    return json.dumps({"format": _FORMAT, **_about(case, grid, spacing_mm)})


def _about(case: Case, grid: tuple[int, int, int], spacing_mm: float) -> dict[str, Any]:
    """Return the properties that all cases of one store share."""
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
        raise StorageError(f"{root}: prepared cases cannot be written there ({reason_of(error)})") from None
