"""Prepared cases on disk, memory-mapped, keyed by the content of their files and the settings that made them."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.data.cases import BadCases, Case, settle
from fedserdiff.data.nifti import open_file
from fedserdiff.data.preprocess import Geometry, PreparedCase, prepare_case
from fedserdiff.data.releases import Convention
from fedserdiff.errors import DataError, Faults, StorageError, reason_of

_FORMAT = 5  # part of the key: raise it when preparation changes
_ARRAYS = ("image", "mask", "truth")
_NO_ENTRY = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)  # nothing, or something else, is in its place
_NOT_MAPPED = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems that map no files say so
# numpy parses a file's header by `ast`, which Python before 3.11.8 may break off, with a SystemError, where two
# threads parse at once (gh-106905): a sound entry would pass for a damaged one.
_parsing = threading.Lock()


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

    An entry appears under its final name only when it is whole, so an interrupted run leaves nothing half-written
    and two processes may fill one cache. One that is damaged all the same is thrown away, and its case prepared anew.
    Where the file system maps no files, arrays are read whenever they are asked for.

    Raises
    ------
    BadCasesError
        Without `bad`: of all cases that `prepare_case` refuses, or of which a file changes while they are prepared.
    StorageError
        Where the cache cannot be written, or an entry not be read for now; the entry stays as it is.
    """

    def attempt(case: Case) -> CachedCase | tuple[str, ...]:
        try:
            return _prepared(case, grid, spacing_mm, root)
        except DataError as error:
            return error.faults

    progress(0, len(cases))
    ready: list[CachedCase] = []
    found: BadCases = {}
    with _workers() as workers:  # decompression and numpy leave the interpreter free
        try:
            for done, (case, outcome) in enumerate(zip(cases, workers.map(attempt, cases), strict=True), 1):
                if isinstance(outcome, CachedCase):
                    ready.append(outcome)
                else:
                    found[case.name] = outcome
                progress(done, len(cases))
        except BaseException:
            workers.shutdown(cancel_futures=True)  # neither a full disk nor an interrupt waits for the rest
            raise
    settle(found, bad)
    return ready


def _workers() -> ThreadPoolExecutor:
    """Return a few threads, so that the memory of fine grids stays bounded; each computes alone."""
    return ThreadPoolExecutor(min(os.cpu_count() or 1, 4), "prepare", torch.set_num_threads, (1,))


def _prepared(case: Case, grid: tuple[int, int, int], spacing_mm: float, root: Path) -> CachedCase:
    """Return one case from the cache, preparing it where it is not there or damaged."""
    hashes = _hashes(case)
    entry = root / _key(hashes, case, grid, spacing_mm)
    prepared = _open(entry, case.convention, grid)
    if prepared is None:
        with _writing(entry):
            _discard(entry)
        try:
            fresh = prepare_case(case, grid, spacing_mm)
        except MemoryError:
            raise StorageError(f"{case.seg.parent}: {case.name}: cannot be prepared (out of memory)") from None
        changed = [path for path, content in _hashes(case).items() if content != hashes[path]]
        if changed:
            again = "changed while it was being read: run again once it stays as it is"
            raise DataError(*(f"{path}: {again}" for path in changed))
        with _writing(entry):
            _write(entry, fresh)
        prepared = _open(entry, case.convention, grid)
    if prepared is None:
        raise StorageError(f"{entry}: a prepared case cannot be read back: is the disk sound?")
    return CachedCase(case, prepared, entry.name)


def _hashes(case: Case) -> dict[Path, bytes]:
    hashes, faults = {}, Faults(DataError)
    for path in case.files:
        with faults.caught(), open_file(path) as file:
            hashes[path] = hashlib.file_digest(file, "sha256").digest()
    faults.check()
    return hashes


def _key(hashes: Mapping[Path, bytes], case: Case, grid: tuple[int, int, int], spacing_mm: float) -> str:
    regions = {name: list(values) for name, values in case.convention.regions.items()}
    meaning = json.dumps([case.convention.modalities, case.channels, regions, case.convention.labels])
    digest = hashlib.sha256(f"{_FORMAT} {meaning} {grid} {spacing_mm}".encode())
    for content in hashes.values():
        digest.update(content)
    return digest.hexdigest()[:32]


@contextmanager
def _writing(entry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{entry.parent}: prepared cases cannot be kept there ({reason_of(error)})") from None


def _discard(entry: Path) -> None:
    """Take a damaged entry away in one step: another process never finds a part of it."""
    away = _partial(entry)
    try:
        entry.rename(away)
    except FileNotFoundError:  # there is none, or another process was faster
        return
    if away.is_dir() and not away.is_symlink():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink()


def _partial(entry: Path) -> Path:
    # Not the process's number: containers number alike, and a killed run's leftover would stop the next one.
    return entry.with_name(f"{entry.name}.partial-{uuid.uuid4().hex}")


def _write(entry: Path, prepared: PreparedCase) -> None:
    partial = _partial(entry)
    partial.mkdir(parents=True)
    try:
        # Slice after slice: training in 2D reads some slices of many volumes.
        np.save(partial / "image.npy", np.asfortranarray(prepared.image))
        np.save(partial / "mask.npy", np.asfortranarray(prepared.mask))
        np.save(partial / "truth.npy", prepared.truth)
        about = {"geometry": dataclasses.asdict(prepared.geometry), "voxel_hash": prepared.voxel_hash}
        (partial / "case.json").write_text(json.dumps(about))
        try:
            partial.rename(entry)
        except OSError:
            if not entry.is_dir():  # another process may have prepared the same case first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open(entry: Path, convention: Convention, grid: tuple[int, int, int]) -> PreparedCase | None:
    """Return the entry's case, or None where there is none or it is not whole.

    Raises
    ------
    StorageError
        Where it cannot be read for now, so that nobody knows.
    """
    with _reading(entry):
        try:
            about = json.loads((entry / "case.json").read_text())
            geometry = Geometry(**{name: tuple(value) for name, value in about["geometry"].items()})
            image, mask, truth = (_mapped(entry / f"{name}.npy") for name in _ARRAYS)
            whole = (
                _is(image, np.float16, (len(convention.modalities), *grid))
                and _is(mask, np.uint8, (len(convention.regions), *grid))
                and _is(truth, np.uint8, (len(convention.regions), *geometry.scored_shape))
                and all(
                    p + n <= size for p, n, size in zip(geometry.pad_before, geometry.inner_shape, grid, strict=True)
                )
                and re.fullmatch("[0-9a-f]{64}", about["voxel_hash"])
            )
        except OSError as error:
            if error.errno in _NO_ENTRY:
                return None
            raise
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - whatever damage does to numpy's or JSON's readers: the case is prepared anew
            return None
    if not whole:
        return None
    if all(isinstance(array, np.memmap) for array in (image, mask, truth)):
        return PreparedCase(image, mask, truth, geometry, about["voxel_hash"])
    return _UnmappedCase(entry, geometry, about["voxel_hash"])


@contextmanager
def _reading(entry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{entry}: a prepared case cannot be read ({reason_of(error)})") from None
    except MemoryError:
        raise StorageError(f"{entry}: a prepared case cannot be read (out of memory)") from None


def _mapped(file: Path) -> NDArray[Any]:
    """Map an array, or, where the file system maps no files, return one of its type and shape that holds nothing."""
    try:
        with _parsing:
            return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]
    except OSError as error:
        if error.errno not in _NOT_MAPPED:
            raise
    with _parsing, file.open("rb") as opened:
        np.lib.format.read_magic(opened)
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)  # the version that np.save writes
        if file.stat().st_size < opened.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError("shorter than its header says")
    return np.broadcast_to(np.empty((), dtype), shape)


def _is(array: object, dtype: type, shape: tuple[int, ...]) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == shape


class _UnmappedCase(PreparedCase):
    """A case on a file system that maps no files: whenever one of its arrays is asked for, it is read.

    None is held, for memory does not hold those of a thousand cases.
    """

    entry: Path

    def __init__(self, entry: Path, geometry: Geometry, voxel_hash: str) -> None:
        for name, value in (("entry", entry), ("geometry", geometry), ("voxel_hash", voxel_hash)):
            object.__setattr__(self, name, value)  # as a frozen dataclass does

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in _ARRAYS:
            raise AttributeError(name)
        with _reading(self.entry), _parsing:
            return np.load(self.entry / f"{name}.npy")  # type: ignore[no-any-return]
