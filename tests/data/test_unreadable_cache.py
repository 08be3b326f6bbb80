"""Errors name a cache or scan that cannot be read at the moment; intact cases in the cache stay unchanged."""

import builtins
import errno
import gzip
import io
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CHANNELS, GRID, Spec, assert_right, draw_case, encode, path_of, write_files, zipped

from fedserdiff.data import cache, nifti
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.nifti import read_volume
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.store import log, stored_case
from fedserdiff.errors import DataError, FedSerDiffError, StorageError

VOLUMES = draw_case()


def _open(folder: Path) -> CachedCase:
    (cached,) = cached_cases(find_cases(folder / "scans", RELEASES["brats2021"]), GRID, 1.0, folder / "cache")
    return cached


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with a case in it, as another process left it."""
    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    _open(tmp_path)
    _forget()
    return tmp_path / "cache"


def _forget() -> None:
    cache._store.cache_clear()
    cache._sources.cache_clear()
    stored_case._opened.cache_clear()


def _stamps(root: Path) -> dict[Path, tuple[int, int]]:
    """The cache's files of cases; its list of file hashes and its time of last use may change."""
    files = (path for path in root.rglob("*") if "sources" not in path.parts and path.name != "about.json")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _failing(number: int, where: Callable[[Any], bool], true: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that the operating system fails with an error number for some of its arguments."""

    def call(first: Any, *rest: Any, **named: Any) -> Any:
        if where(first):
            raise OSError(number, os.strerror(number))
        return true(first, *rest, **named)

    return call


def _open_none(monkeypatch: pytest.MonkeyPatch, number: int, name: str) -> None:
    """Make every way of opening a file of this name in Python fail."""
    failing = _failing(number, lambda path: str(path).endswith(name), io.open)
    monkeypatch.setattr(io, "open", failing)
    monkeypatch.setattr(builtins, "open", failing)


REASONS = {
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENFILE: "too many open files in system: ",
    errno.ENOMEM: "Cannot allocate memory",
    errno.EACCES: "Permission denied",
    errno.EIO: "Input/output error",
    errno.ESTALE: "Stale file handle",
}


@pytest.mark.parametrize("ending", [".jsonl", ".cases"])
@pytest.mark.parametrize("number", REASONS, ids=errno.errorcode.get)
def test_what_stops_the_reading_of_a_sound_case_is_said_and_the_case_stays(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, ending: str
) -> None:
    before = _stamps(root)
    with monkeypatch.context() as broken:
        _open_none(broken, number, ending)
        with pytest.raises(StorageError) as caught:
            _ = _open(tmp_path).prepared.image
    assert f": prepared cases cannot be read ({REASONS[number]}" in str(caught.value)
    assert str(caught.value).startswith(str(root))
    assert _stamps(root) == before
    assert_right(_open(tmp_path).prepared, VOLUMES)
    assert _stamps(root) == before


def test_a_folder_of_cases_that_may_not_be_listed_is_not_taken_for_empty(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _stamps(root)
    monkeypatch.setattr(
        log.os, "listdir", _failing(errno.EACCES, lambda folder: root in Path(folder).parents, os.listdir)
    )
    with pytest.raises(StorageError, match=r"cache: prepared cases cannot be read \(Permission denied\)"):
        _open(tmp_path)
    assert _stamps(root) == before


def test_a_few_open_files_do_for_any_number_of_cases(tmp_path: Path) -> None:
    """The real limit, and more cases than it allows."""
    volumes = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS}
    for number in range(20):
        folder = tmp_path / "scans" / f"BraTS2021_{number:05d}"
        folder.mkdir(parents=True)
        for channel, content in volumes.items():
            (folder / f"{folder.name}_{channel}.nii").write_bytes(content + bytes(0))
        rng = np.random.default_rng(number)
        changed = np.where(VOLUMES["t1"] > 0, rng.integers(1, 99, VOLUMES["t1"].shape), 0)
        (folder / f"{folder.name}_t1.nii").write_bytes(encode(changed, Spec()))
    cases = find_cases(tmp_path / "scans", RELEASES["brats2021"])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(max(taken) + 40) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[30], limits[1]))
    try:
        cached = cached_cases(cases, GRID, 1.0, tmp_path / "cache")
        images = [one.prepared.image for one in cached]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(images) == 20


@pytest.mark.parametrize("number", REASONS, ids=errno.errorcode.get)
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_a_scan_that_cannot_be_read_for_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, compressed: bool
) -> None:
    raw = encode(VOLUMES["t1"], Spec())
    write_files(tmp_path, {"t1": zipped(raw) if compressed else raw})
    path = path_of(tmp_path, "t1", ".nii")
    for break_it in (_open_none, _read_none):
        with monkeypatch.context() as broken:
            break_it(broken, number, path.name)
            with pytest.raises(FedSerDiffError) as caught:
                read_volume(path)
        assert str(caught.value).startswith(f"{path}: cannot be read ({REASONS[number]}")
        of_machine = number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
        assert isinstance(caught.value, StorageError if of_machine else DataError)
    assert read_volume(path).shape == (12, 14, 10)


def _read_none(monkeypatch: pytest.MonkeyPatch, number: int, name: str) -> None:
    """Have the disk fail once the header has been read."""
    monkeypatch.setattr(nifti, "_exactly", _failing(number, lambda path: path.name == name, nifti._exactly))


def test_memory_that_is_not_there_is_said_and_no_damage(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise MemoryError

    before = _stamps(root)
    with monkeypatch.context() as broken:
        broken.setattr(np, "frombuffer", full)
        with pytest.raises(StorageError, match=r"t1\.nii: cannot be read \(out of memory\)"):
            read_volume(path_of(tmp_path / "scans", "t1", ".nii"))
    cached = _open(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "preadv", full)
        with pytest.raises(StorageError, match=r"\.cases: prepared cases cannot be read \(out of memory\)"):
            _ = cached.prepared.image
    assert _stamps(root) == before


def test_memory_that_runs_out_while_a_case_is_prepared_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    monkeypatch.setattr(cache, "prepare_case", full)
    with pytest.raises(StorageError, match=r"BraTS2021_00000: cannot be prepared \(out of memory\)"):
        _open(tmp_path)


def test_a_bad_checksum_is_damage(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(encode(VOLUMES["t1"], Spec())))
    content[-5] ^= 1
    write_files(tmp_path, {"t1": bytes(content)})
    with pytest.raises(DataError, match="truncated or damaged"):
        read_volume(path_of(tmp_path, "t1", ".nii"))
