"""Prepared cases that were damaged on disk are prepared anew, and files that change meanwhile are refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CASE, CHANNELS, GRID, Array, Spec, assert_right, draw_case, encode, path_of, watchdog, write_files

from fedserdiff.data import cache
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import DataError, StorageError

VOLUMES = draw_case()


def _open(folder: Path) -> CachedCase:
    release = RELEASES["brats2021"]
    with watchdog():
        (cached,) = cached_cases(find_cases(folder / "scans", release), GRID, 1.0, folder / "cache")
    return cached


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """A case's entry in the cache."""
    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    return tmp_path / "cache" / _open(tmp_path).key


def _truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def _save(array: Array) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)

    return damage


def _save_many(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, np.zeros(3))


def _turn_into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


ARRAY_DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": _truncate(0),
    "half a header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "half": _truncate(0.5),
    "short of a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path: path.write_text("gone"),
    "a header that does not end": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 70000),
    "a header that is no header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 15 + b"\n"),
    "another shape": _save(np.zeros((3, 2, 2, 2), np.uint8)),
    "another type": _save(np.zeros((4, *GRID), np.float64)),
    "objects": _save(np.array([{"a": 1}, None], object)),
    "an archive of arrays": _save_many,
    "a directory": _turn_into_directory,
}


@pytest.mark.parametrize("name", ["image", "mask", "truth"])
@pytest.mark.parametrize("kind", ARRAY_DAMAGE)
def test_a_damaged_array_is_made_anew(tmp_path: Path, entry: Path, kind: str, name: str) -> None:
    ARRAY_DAMAGE[kind](entry / f"{name}.npy")
    assert_right(_open(tmp_path).prepared, VOLUMES)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name], "what was damaged is gone"
    assert_right(_open(tmp_path).prepared, VOLUMES)


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(about: dict[str, Any]) -> None:
        for key in keys[:-1]:
            about = about[key]
        del about[keys[-1]]

    return change


ABOUT_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no geometry": _without("geometry"),
    "no shape": _without("geometry", "shape"),
    "no hash": _without("voxel_hash"),
    "a hash that is none": lambda about: about.update(voxel_hash="gone"),
    "a hash that is a number": lambda about: about.update(voxel_hash=7),
    "a geometry that is none": lambda about: about.update(geometry=[1, 2]),
    "a field too many": lambda about: about["geometry"].update(more=[1]),
    "a box of another size": lambda about: about["geometry"].update(box_shape=[1, 2, 3]),
    "a place outside the grid": lambda about: about["geometry"].update(pad_before=[14, 0, 0]),
    "two axes": lambda about: about["geometry"].update(pad_before=[1, 2]),
}


@pytest.mark.parametrize("kind", ABOUT_DAMAGE)
def test_a_damaged_description_is_made_anew(tmp_path: Path, entry: Path, kind: str) -> None:
    about = json.loads((entry / "case.json").read_text())
    ABOUT_DAMAGE[kind](about)
    (entry / "case.json").write_text(json.dumps(about))
    assert_right(_open(tmp_path).prepared, VOLUMES)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}"], ids=repr)
def test_a_description_that_is_no_description_is_made_anew(tmp_path: Path, entry: Path, content: bytes) -> None:
    (entry / "case.json").write_bytes(content)
    assert_right(_open(tmp_path).prepared, VOLUMES)


@pytest.mark.parametrize("kind", ["file", "empty directory", "link to nothing"])
def test_something_else_in_an_entrys_place_is_replaced(tmp_path: Path, entry: Path, kind: str) -> None:
    shutil.rmtree(entry)
    if kind == "file":
        entry.touch()
    elif kind == "empty directory":
        entry.mkdir()
    else:
        entry.symlink_to("gone")
    assert_right(_open(tmp_path).prepared, VOLUMES)
    assert entry.is_dir()
    assert not entry.is_symlink()


def test_whoever_has_a_damaged_entry_open_keeps_what_it_sees(tmp_path: Path, entry: Path) -> None:
    before = _open(tmp_path)
    (entry / "case.json").unlink()
    again = _open(tmp_path)
    np.testing.assert_array_equal(before.prepared.image, again.prepared.image)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, entry: Path) -> None:
    shutil.rmtree(entry.parent)
    entry.parent.touch()
    with pytest.raises(StorageError) as caught:
        _open(tmp_path)
    assert str(caught.value) == f"{entry.parent}: prepared cases cannot be kept there (Not a directory)"


def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(entry)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StorageError, match=r"cache: prepared cases cannot be kept there \(No space left on device\)"):
        _open(tmp_path)
    assert os.listdir(entry.parent) == []


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_file_that_changes_while_it_is_read_is_refused_and_nothing_is_kept(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    shutil.rmtree(entry)
    changing = path_of(tmp_path / "scans", channel, ".nii")
    prepare = cache.prepare_case

    def meanwhile(*arguments: Any) -> PreparedCase:
        changing.write_bytes(encode(VOLUMES[channel][::-1], Spec()))
        return prepare(*arguments)

    monkeypatch.setattr(cache, "prepare_case", meanwhile)
    with pytest.raises(DataError) as caught:
        _open(tmp_path)
    assert str(caught.value).startswith(f"{changing}: changed while it was being read: run again")
    assert os.listdir(entry.parent) == []
    assert changing.parent.name == CASE
