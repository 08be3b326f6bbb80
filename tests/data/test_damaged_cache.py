"""Prepared cases that were damaged on disk are prepared again; files that change during preparation are refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import CASE, CHANNELS, GRID, Spec, assert_right, draw_case, encode, path_of, watchdog, write_files

from fedserdiff.data import cache
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.store import log, store, stored_case, upkeep
from fedserdiff.errors import DataError, StorageError

VOLUMES = draw_case()


def _open(folder: Path) -> CachedCase:
    release = RELEASES["brats2021"]
    with watchdog():
        (cached,) = cached_cases(find_cases(folder / "scans", release), GRID, 1.0, folder / "cache")
    return cached


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with a case in it."""
    write_files(tmp_path / "scans", {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    _open(tmp_path)
    return tmp_path / "cache"


def file_of(root: Path, ending: str) -> Path:
    (found,) = (file for file in root.rglob(f"*{ending}") if file.parent.name != "sources")
    return found


def _truncate(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": _truncate(0),
    "half": _truncate(0.5),
    "text": lambda path: path.write_text("gone"),
}


@pytest.mark.parametrize("ending", [".cases", ".jsonl"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_case_whose_files_are_damaged_is_prepared_anew(tmp_path: Path, root: Path, kind: str, ending: str) -> None:
    DAMAGE[kind](file_of(root, ending))
    forget()
    assert_right(_open(tmp_path).prepared, VOLUMES)
    forget()
    assert_right(_open(tmp_path).prepared, VOLUMES)


def forget() -> None:
    """Begin as another process does."""
    cache._store.cache_clear()
    cache._sources.cache_clear()
    stored_case._opened.cache_clear()


def _without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(about: dict[str, Any]) -> None:
        for key in keys[:-1]:
            about = about[key]
        del about[keys[-1]]

    return change


ENTRY_DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "no geometry": _without("geometry"),
    "no shape": _without("geometry", "shape"),
    "no hash": _without("voxel_hash"),
    "a hash that is none": lambda about: about.update(voxel_hash="gone"),
    "a hash that is a number": lambda about: about.update(voxel_hash=7),
    "a geometry that is none": lambda about: about.update(geometry=[1, 2]),
    "a field too many": lambda about: about["geometry"].update(more=[1]),
    "a box of another size": lambda about: about["geometry"].update(inner_shape=[1, 2, 3]),
    "a place outside the grid": lambda about: about["geometry"].update(pad_before=[14, 0, 0]),
    "two axes": lambda about: about["geometry"].update(pad_before=[1, 2]),
    "text for numbers": lambda about: about.update(brain=["a"]),
    "a slice outside the grid": lambda about: about.update(tumour=[16]),
    "another size": lambda about: about.update(size=about["size"] - 1),
    "a place before the file": lambda about: about.update(at=-1),
}


@pytest.mark.parametrize("kind", ENTRY_DAMAGE)
def test_a_damaged_entry_is_made_anew(tmp_path: Path, root: Path, kind: str) -> None:
    index = file_of(root, ".jsonl")
    key, about = json.loads(index.read_text())
    ENTRY_DAMAGE[kind](about)
    index.write_text(json.dumps([key, about]) + "\n")
    forget()
    assert_right(_open(tmp_path).prepared, VOLUMES)


@pytest.mark.parametrize("line", [b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'["key", 3]', b""], ids=repr)
def test_a_line_that_is_no_entry_is_passed_over_and_the_others_are_read(
    tmp_path: Path, root: Path, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = file_of(root, ".jsonl")
    index.write_bytes(line + b"\n" + index.read_bytes())
    forget()
    monkeypatch.setattr(cache, "prepare_case", lambda *arguments: pytest.fail("it was there"))
    assert_right(_open(tmp_path).prepared, VOLUMES)


def test_a_changed_byte_is_found_by_verify_and_the_case_is_prepared_anew(tmp_path: Path, root: Path) -> None:
    voxels = file_of(root, ".cases")
    content = bytearray(voxels.read_bytes())
    content[1000] ^= 4
    voxels.write_bytes(content)
    forget()
    assert upkeep.verify(root).cases == 1
    for _ in range(2):
        forget()
        assert_right(_open(tmp_path).prepared, VOLUMES)
    assert upkeep.verify(root).cases == 0


def test_who_has_a_case_open_keeps_what_it_sees(tmp_path: Path, root: Path) -> None:
    before = _open(tmp_path)
    expected = before.prepared.image
    file_of(root, ".jsonl").unlink()
    forget()
    again = _open(tmp_path)
    np.testing.assert_array_equal(before.prepared.image, expected)
    np.testing.assert_array_equal(again.prepared.image, expected)


def test_a_case_that_is_cut_off_while_it_is_open_is_said_to_be(tmp_path: Path, root: Path) -> None:
    cached = _open(tmp_path)
    os.truncate(file_of(root, ".cases"), 100)
    with pytest.raises(StorageError, match=r"\.cases: a prepared case is truncated: run the command again"):
        _ = cached.prepared.image
    assert_right(_open(tmp_path).prepared, VOLUMES)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, root: Path) -> None:
    shutil.rmtree(root)
    root.touch()
    forget()
    with pytest.raises(StorageError) as caught:
        _open(tmp_path)
    assert str(caught.value) == f"{root}: prepared cases cannot be written there (Not a directory)"


@pytest.mark.parametrize("of", [store, log], ids=["voxels", "index"])
def test_a_full_disk_is_named_and_leaves_nothing_half_written(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, of: Any
) -> None:
    file_of(root, ".jsonl").write_bytes(b"")
    sizes = {ending: file_of(root, ending).stat().st_size for ending in (".cases", ".jsonl")}
    forget()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(of, "sync", full)
        with pytest.raises(
            StorageError, match=r"cache: prepared cases cannot be written there \(No space left on device\)"
        ):
            _open(tmp_path)
    files = [file for ending in (".cases", ".jsonl") for file in root.glob(f"[0-9a-f]*/*{ending}")]
    assert sum(file.stat().st_size for file in files) == sum(sizes.values())
    assert_right(_open(tmp_path).prepared, VOLUMES)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_file_that_changes_while_it_is_read_is_refused_and_nothing_is_kept(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    file_of(root, ".jsonl").unlink()
    forget()
    changing = path_of(tmp_path / "scans", channel, ".nii")
    prepare = cache.prepare_case

    def meanwhile(*arguments: Any) -> PreparedCase:
        changing.write_bytes(encode(VOLUMES[channel][::-1], Spec()))
        return prepare(*arguments)

    monkeypatch.setattr(cache, "prepare_case", meanwhile)
    with pytest.raises(DataError) as caught:
        _open(tmp_path)
    assert str(caught.value).startswith(f"{changing}: changed while it was being read: run again")
    assert not [file for file in root.rglob("*.jsonl") if file.parent.name != "sources"]
    assert changing.parent.name == CASE
