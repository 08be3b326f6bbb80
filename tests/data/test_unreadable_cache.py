"""A cache or a scan that cannot be read for now is named as such, and what is sound in the cache stays as it is."""

import builtins
import errno
import gzip
import io
import mmap
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
from fedserdiff.errors import DataError, FedSerDiffError, StorageError
from fedserdiff.settings.sources import make_settings
from sites.hospital import TrainingSet

VOLUMES = draw_case()


def _open(folder: Path) -> CachedCase:
    (cached,) = cached_cases(find_cases(folder / "scans", RELEASES["brats2021"]), GRID, 1.0, folder / "cache")
    return cached


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    return tmp_path / "cache" / _open(tmp_path).key


def _stamps(entry: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (entry, *entry.iterdir())}


def _failing(number: int, where: Callable[[Any], bool], true: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that the operating system fails with an error number for some of its arguments."""

    def call(first: Any, *rest: Any, **named: Any) -> Any:
        if where(first):
            raise OSError(number, os.strerror(number))
        return true(first, *rest, **named)

    return call


def _map_nothing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(mmap, "mmap", _failing(number, lambda descriptor: descriptor > 0, mmap.mmap))


def _open_none(monkeypatch: pytest.MonkeyPatch, number: int, name: str) -> None:
    """Have no file of this name opened, by whichever way Python opens one."""
    failing = _failing(number, lambda path: str(path).endswith(name), io.open)
    monkeypatch.setattr(io, "open", failing)
    monkeypatch.setattr(builtins, "open", failing)


@pytest.mark.parametrize(
    "number", [errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get
)
def test_a_file_system_that_maps_no_files_is_read_without(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before, mapped = _stamps(entry), _open(tmp_path)
    _map_nothing(monkeypatch, number)

    cached = _open(tmp_path)

    assert _stamps(entry) == before
    assert_right(cached.prepared, VOLUMES)
    config = make_settings("smoke", {"data.grid": GRID})
    sets = [TrainingSet([one], config, "cpu") for one in (cached, mapped)]  # type: ignore[arg-type]
    assert len(sets[0]) == len(sets[1])
    index = np.arange(len(sets[0]))
    unmapped, as_mapped = (one.batch(index) for one in sets)  # type: ignore[arg-type]
    assert unmapped.image.equal(as_mapped.image)
    assert unmapped.truth.equal(as_mapped.truth)
    assert cached.prepared.image is not cached.prepared.image, "none is held: memory does not hold a thousand cases"
    shown = cached.prepared.showing(mapped.prepared.image[..., ::-1], mapped.prepared.mask)
    np.testing.assert_array_equal(shown.image, cached.prepared.image[..., ::-1])
    np.testing.assert_array_equal(shown.truth, mapped.prepared.truth)


def test_a_case_is_prepared_where_files_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    _map_nothing(monkeypatch, errno.ENODEV)
    assert_right(_open(tmp_path).prepared, VOLUMES)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 15 + b"\n", b"gone"])
def test_damage_is_still_mended_where_files_cannot_be_mapped(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    _map_nothing(monkeypatch, errno.ENODEV)
    for name in ("image", "mask", "truth"):
        (entry / f"{name}.npy").write_bytes(damage)
        assert_right(_open(tmp_path).prepared, VOLUMES)
        whole = (entry / f"{name}.npy").read_bytes()
        (entry / f"{name}.npy").write_bytes(whole[:-1])
        assert_right(_open(tmp_path).prepared, VOLUMES)
        assert (entry / f"{name}.npy").read_bytes() == whole


REASONS = {
    errno.EMFILE: "too many open files: raise `ulimit -n`",
    errno.ENFILE: "too many open files in system: ",
    errno.ENOMEM: "Cannot allocate memory",
    errno.EACCES: "Permission denied",
    errno.EIO: "Input/output error",
    errno.ESTALE: "Stale file handle",
}
OF_MAPPING = (errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EIO)


@pytest.mark.parametrize("number", OF_MAPPING, ids=errno.errorcode.get)
def test_what_stops_the_mapping_of_a_sound_entry_is_said_and_the_entry_stays(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = _stamps(entry)
    with monkeypatch.context() as broken:
        _map_nothing(broken, number)
        with pytest.raises(StorageError) as caught:
            _open(tmp_path)
    assert str(caught.value).startswith(f"{entry}: a prepared case cannot be read ({REASONS[number]}")
    assert _stamps(entry) == before
    assert_right(_open(tmp_path).prepared, VOLUMES)
    assert _stamps(entry) == before


@pytest.mark.parametrize("name", ["case.json", "truth.npy"])
@pytest.mark.parametrize("number", REASONS, ids=errno.errorcode.get)
def test_what_stops_the_opening_of_a_sound_entry_is_said_and_the_entry_stays(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    before = _stamps(entry)
    with monkeypatch.context() as broken:
        _open_none(broken, number, name)
        with pytest.raises(StorageError) as caught:
            _open(tmp_path)
    assert str(caught.value).startswith(f"{entry}: a prepared case cannot be read ({REASONS[number]}")
    assert _stamps(entry) == before


def test_too_many_open_files_lose_no_entry(tmp_path: Path) -> None:
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
        with pytest.raises(FedSerDiffError) as caught:
            cached_cases(cases, GRID, 1.0, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(caught.value, StorageError)
    assert "too many open files: raise `ulimit -n`" in str(caught.value)
    done = {path: path.stat().st_ino for path in (tmp_path / "cache").iterdir() if ".partial" not in path.name}
    assert done
    assert len(cached_cases(cases, GRID, 1.0, tmp_path / "cache")) == 20
    assert {path: path.stat().st_ino for path in done} == done


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
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise MemoryError

    before = _stamps(entry)
    for module, name in ((np, "load"), (np, "frombuffer")):
        with monkeypatch.context() as broken:
            broken.setattr(module, name, full)
            if name == "frombuffer":
                with pytest.raises(StorageError, match=r"t1\.nii: cannot be read \(out of memory\)"):
                    read_volume(path_of(tmp_path / "scans", "t1", ".nii"))
            else:
                with pytest.raises(StorageError) as caught:
                    _open(tmp_path)
                assert str(caught.value) == f"{entry}: a prepared case cannot be read (out of memory)"
    assert _stamps(entry) == before


def test_memory_that_runs_out_while_a_case_is_prepared_is_said(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    (entry / "case.json").unlink()
    monkeypatch.setattr(cache, "prepare_case", full)
    with pytest.raises(StorageError, match=r"BraTS2021_00000: cannot be prepared \(out of memory\)"):
        _open(tmp_path)


def test_a_bad_checksum_is_damage(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(encode(VOLUMES["t1"], Spec())))
    content[-5] ^= 1
    write_files(tmp_path, {"t1": bytes(content)})
    with pytest.raises(DataError, match="truncated or damaged"):
        read_volume(path_of(tmp_path, "t1", ".nii"))
