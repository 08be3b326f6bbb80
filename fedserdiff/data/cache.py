"""Prepared cases on disk, memory-mapped, keyed by the content of their files and the settings that made them."""

import dataclasses
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedserdiff.data.cases import Case
from fedserdiff.data.preprocess import Geometry, PreparedCase, prepare_case
from fedserdiff.data.releases import Release
from fedserdiff.errors import DataError

_FORMAT = 1  # part of the key: raise it when preparation changes


@dataclass(frozen=True)
class CachedCase:
    """A case and its prepared arrays, which stay on disk until they are read."""

    case: Case
    prepared: PreparedCase


def cached_cases(
    cases: Sequence[Case],
    release: Release,
    grid: tuple[int, int, int],
    spacing_mm: float,
    root: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CachedCase]:
    """Return `cases` prepared for `grid`, preparing those that are not in the cache under `root` yet.

    An entry appears under its final name only when it is whole, so an interrupted run leaves nothing half-written
    and two processes may fill one cache.

    Raises
    ------
    DataError
        As `prepare_case`.
    """
    ready = []
    for done, case in enumerate(cases):
        progress(done, len(cases))
        entry = root / _key(case, release, grid, spacing_mm)
        if not entry.is_dir():
            _write(entry, prepare_case(case, release, grid, spacing_mm))
        ready.append(CachedCase(case, _open(entry)))
    progress(len(cases), len(cases))
    return ready


def _key(case: Case, release: Release, grid: tuple[int, int, int], spacing_mm: float) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {release.name} {grid} {spacing_mm}".encode())
    for path in (*case.images, case.seg):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()[:32]


def _write(entry: Path, prepared: PreparedCase) -> None:
    # Not the process's number: containers number alike, and a killed run's leftover would stop the next one.
    partial = entry.with_name(f"{entry.name}.partial-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        np.save(partial / "image.npy", prepared.image)
        np.save(partial / "mask.npy", prepared.mask)
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


def _open(entry: Path) -> PreparedCase:
    about = json.loads((entry / "case.json").read_text())
    return PreparedCase(
        image=np.load(entry / "image.npy", mmap_mode="r"),
        mask=np.load(entry / "mask.npy", mmap_mode="r"),
        truth=np.load(entry / "truth.npy", mmap_mode="r"),
        geometry=Geometry(**{name: tuple(value) for name, value in about["geometry"].items()}),
        voxel_hash=about["voxel_hash"],
    )
