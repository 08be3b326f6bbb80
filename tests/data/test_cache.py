import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data import cache
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.store import sources, store, upkeep
from fedserdiff.errors import DataError

Volumes = dict[str, NDArray[Any]]
GRID = (16, 16, 16)


def _open(
    scans: Path,
    root: Path,
    grid: tuple[int, int, int] = GRID,
    spacing_mm: float = 1.0,
    release: str = "brats2023-gli",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CachedCase]:
    found = find_cases(scans, RELEASES[release])
    return cached_cases(found, grid, spacing_mm, root, progress)


@pytest.fixture
def scans(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> Path:
    for number in range(2):
        volumes = draw_volumes(seed=number, enhancing=3)
        write_case(tmp_path / "scans", volumes, "brats2023-gli", name=f"BraTS-GLI-0000{number}-000")
    return tmp_path / "scans"


def keys(root: Path) -> set[str]:
    """The cases that a cache's index names."""
    logs = [log for log in root.rglob("*.jsonl") if log.parent.name != "sources"]
    lines = (line for log in logs for line in log.read_text().splitlines(keepends=True))
    return {json.loads(line)[0] for line in lines if line.endswith("\n")}


def test_cached_arrays_are_the_prepared_ones_and_stay_on_disk(scans: Path, tmp_path: Path) -> None:
    release = RELEASES["brats2023-gli"]
    for cached in (_open(scans, tmp_path / "cache"), _open(scans, tmp_path / "cache")):  # written, then found
        assert [c.case for c in cached] == find_cases(scans, release)
        for entry in cached:
            fresh = prepare_case(entry.case, GRID, 1.0)
            for name in ("image", "mask", "truth"):
                array = getattr(entry.prepared, name)
                assert array.dtype == getattr(fresh, name).dtype
                np.testing.assert_array_equal(array, getattr(fresh, name))
            assert entry.prepared.image is not entry.prepared.image, "memory does not hold those of a thousand cases"
            assert entry.prepared.geometry == fresh.geometry
            assert entry.prepared.voxel_hash == fresh.voxel_hash


def test_what_the_index_says_of_a_case_is_what_its_voxels_say(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cached in _open(scans, tmp_path / "cache"):
        fresh = prepare_case(cached.case, GRID, 1.0)
        with monkeypatch.context() as blind:
            blind.setattr(os, "preadv", lambda *arguments: pytest.fail("voxels were read"))
            brain, tumour = cached.prepared.slices()
            tumour_voxels = cached.prepared.tumour_voxels
        assert brain.tolist() == [z for z in range(16) if fresh.image[..., z].any()]
        assert tumour.tolist() == [z for z in range(16) if fresh.mask[..., z].any()]
        assert 0 < len(tumour) < len(brain) < 16
        assert tumour_voxels == fresh.mask[1].sum(), "the whole tumour"
        for z in range(16):  # slices before, within and behind the brain
            box, *found = cached.prepared.boxed(slice(z, z + 1))
            for part, expected in zip(found, (fresh.image, fresh.mask), strict=True):
                whole = np.zeros_like(expected)
                whole[(slice(None), *box)] = part
                np.testing.assert_array_equal(whole[..., z], expected[..., z])
                assert not np.delete(whole, z, -1).any()


def test_second_call_writes_nothing(scans: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    everything = [root, *root.rglob("*")]  # the root's own time tells of files made and thrown away
    everything = [path for path in everything if path.name != "about.json"]  # its time says when it was last used
    for path in everything:
        os.utime(path, ns=(10**18, 10**18))

    _open(scans, root)

    assert {path.stat().st_mtime_ns for path in everything} == {10**18}


def test_a_file_that_is_as_it_was_is_not_read_again(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by this process nor by another one; but where it is asked for, and where it may have changed."""
    read: list[Path] = []
    true = sources.open_file
    monkeypatch.setattr(sources, "open_file", lambda path: (read.append(path), true(path))[1])
    age(scans)
    _open(scans, tmp_path / "cache")
    everything = [path for case in find_cases(scans, RELEASES["brats2023-gli"]) for path in case.files]
    assert sorted(read) == sorted(everything)
    read.clear()
    monkeypatch.setattr(cache.nib, "load", lambda path: pytest.fail(f"{path} was read"))
    _open(scans, tmp_path / "cache")
    forget()
    _open(scans, tmp_path / "cache")
    assert read == []
    os.utime(everything[3], ns=(10**18, 10**18))
    _open(scans, tmp_path / "cache")
    assert read == [everything[3]]
    read.clear()
    assert upkeep.verify(tmp_path / "cache") == upkeep.Damage(0, ())
    assert sorted(read) == sorted(everything)


def test_a_scan_that_changed_behind_its_size_and_time_is_found_by_verify(scans: Path, tmp_path: Path) -> None:
    age(scans)
    before = _open(scans, tmp_path / "cache")
    seg = before[0].case.seg
    stamp, content = seg.stat(), bytearray(seg.read_bytes())
    content[4] ^= 1  # the time that gzip notes
    with seg.open("r+b") as file:
        file.write(content)
    os.utime(seg, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert [cached.key for cached in _open(scans, tmp_path / "cache")] == [cached.key for cached in before]
    assert upkeep.verify(tmp_path / "cache") == upkeep.Damage(0, (seg,))
    forget()
    after = _open(scans, tmp_path / "cache")
    assert (after[0].key != before[0].key, after[1].key) == (True, before[1].key)


def forget() -> None:
    """Begin as another process does."""
    cache._sources.cache_clear()
    cache._store.cache_clear()


def test_a_cache_tells_what_it_holds_and_forgets_what_nobody_uses(scans: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    _open(scans, root, spacing_mm=2.0)
    (root / "0123456789abcdef0123456789abcdef").mkdir()  # a case as an earlier version kept it
    (root / "0123456789abcdef0123456789abcdef" / "image.npy").write_bytes(bytes(99))
    found = {kind.about.get("spacing_mm"): kind for kind in upkeep.kinds(root)}
    assert {spacing: kind.cases for spacing, kind in found.items()} == {1.0: 2, 2.0: 2, None: 0}
    assert found[1.0].about["modalities"] == ["t1", "t1ce", "t2", "flair"]
    assert sum(kind.size for kind in found.values()) == sum(
        file.stat().st_size for file in root.rglob("*") if file.is_file() and file.parent.name != "sources"
    )
    os.utime(found[2.0].folder / "about.json", (time.time() - 40 * 86400,) * 2)
    gone, size = upkeep.prune(root, 30)
    assert {kind.about.get("spacing_mm") for kind in gone} == {2.0, None}
    assert size == found[2.0].size + 99
    assert [kind.about["spacing_mm"] for kind in upkeep.kinds(root)] == [1.0]
    forget()
    assert len(_open(scans, root, spacing_mm=2.0)) == 2, "it is prepared again"


def test_a_file_that_was_written_just_now_is_read_again(scans: Path, tmp_path: Path) -> None:
    """It may change once more within one tick of its file system's clock, and have the same size."""
    case = scans / "BraTS-GLI-00000-000"
    seg = case / f"{case.name}-seg.nii.gz"
    before = _open(scans, tmp_path / "cache")[0]
    stamp, content = seg.stat(), seg.read_bytes()
    other = nib.load(seg)
    nib.save(nib.Nifti1Image(np.asarray(other.dataobj)[::-1].copy(), other.affine, other.header), tmp_path / "x.nii.gz")
    changed = (tmp_path / "x.nii.gz").read_bytes()
    seg.write_bytes(changed.ljust(len(content), b"\0")[: max(len(changed), len(content))])
    os.utime(seg, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = _open(scans, tmp_path / "cache")[0]
    assert after.key != before.key


def age(folder: Path) -> None:
    """Make files so old that every change shows in their times."""
    for path in folder.rglob("*.nii.gz"):
        os.utime(path, ns=(time.time_ns() - 10**10,) * 2)


def test_open_files_do_not_grow_with_cases(scans: Path, tmp_path: Path) -> None:
    (one, other) = find_cases(scans, RELEASES["brats2023-gli"])
    before = len(os.listdir("/proc/self/fd"))
    cached = cached_cases([one, other] * 40, GRID, 1.0, tmp_path / "cache")
    arrays = [c.prepared.image for c in cached]
    assert len(arrays) == 80
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_moved_scans_are_not_prepared_again(scans: Path, tmp_path: Path) -> None:
    _open(scans, tmp_path / "cache")
    moved = scans.rename(tmp_path / "elsewhere")
    cached = _open(moved, tmp_path / "cache")
    assert len(keys(tmp_path / "cache")) == 2
    assert cached[0].case.seg.is_relative_to(moved)


@pytest.mark.parametrize("change", [{"grid": (16, 16, 24)}, {"spacing_mm": 2.0}, {"release": "brats2024-gli"}], ids=str)
def test_other_settings_get_entries_of_their_own(
    scans: Path, tmp_path: Path, change: dict[str, tuple[int, int, int] | float | str]
) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    changed = _open(scans, root, **change)  # type: ignore[arg-type]
    assert len(keys(root)) == 4
    assert changed[0].prepared.image.shape == (4, *change.get("grid", GRID))  # type: ignore[misc]


def test_changed_segmentation_is_prepared_anew(
    scans: Path, tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    before = _open(scans, tmp_path / "cache")[0].prepared.truth.sum((1, 2, 3)).tolist()
    volumes = draw_volumes(enhancing=3)
    volumes["seg"][volumes["seg"] == 3] = 1
    edited = write_case(tmp_path / "edited", volumes, "brats2023-gli", name="BraTS-GLI-00000-000")
    name = "BraTS-GLI-00000-000-seg.nii.gz"
    (edited / name).replace(scans / "BraTS-GLI-00000-000" / name)

    after = _open(scans, tmp_path / "cache")[0].prepared.truth.sum((1, 2, 3)).tolist()

    assert before[2] == 2
    assert after == [*before[:2], 0]


def test_refused_case_leaves_no_entry_and_those_before_it_stay(scans: Path, tmp_path: Path) -> None:
    damaged = scans / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1n.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:400])

    with pytest.raises(DataError, match=damaged.name):
        _open(scans, tmp_path / "cache")

    (sound,) = cached_cases(find_cases(scans, RELEASES["brats2023-gli"])[:1], GRID, 1.0, tmp_path / "cache")
    assert keys(tmp_path / "cache") == {sound.key}


@pytest.mark.parametrize("moment", ["before", "within the voxels", "between voxels and index", "within the index"])
def test_whatever_ends_a_process_the_next_one_ends_with_the_same_cases(
    scans: Path, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {cached.key: np.array(cached.prepared.image) for cached in _open(scans, tmp_path / "whole")}
    assert prepare(scans, tmp_path / "cache", moment).wait(300) == -signal.SIGKILL
    found = {cached.key: np.array(cached.prepared.image) for cached in _open(scans, tmp_path / "cache")}
    assert found.keys() == whole.keys()
    for key, image in whole.items():
        np.testing.assert_array_equal(found[key], image)
    assert keys(tmp_path / "cache") == set(whole)


def prepare(scans: Path, root: Path, moment: str) -> subprocess.Popen[bytes]:
    """Start a process that prepares all cases, and kills itself at a moment while it keeps the second one."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(scans), str(root), moment])


PROGRAM = """
import itertools, os, signal, sys
from pathlib import Path
from fedserdiff.data import cache
from fedserdiff.data.cases import find_cases
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.store import log, store

scans, root, moment = sys.argv[1:]

def second(true, last):
    calls = itertools.count(1)
    def call(*arguments):
        if next(calls) == 2:
            last(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return true(*arguments)
    return call

def cut(descriptor):
    os.ftruncate(descriptor, os.fstat(descriptor).st_size - 50)

if moment == "before":
    cache.prepare_case = second(cache.prepare_case, lambda *arguments: None)
elif moment == "within the index":
    log.sync = second(log.sync, cut)
elif moment == "within the voxels":
    store.sync = second(store.sync, cut)
elif moment == "between voxels and index":
    store.sync = second(store.sync, lambda descriptor: None)
cache.cached_cases(find_cases(Path(scans), RELEASES["brats2023-gli"]), (16, 16, 16), 1.0, Path(root))
"""


def test_two_processes_fill_one_cache(scans: Path, tmp_path: Path) -> None:
    started = [prepare(scans, tmp_path / "cache", "never") for _ in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    for cached in _open(scans, tmp_path / "cache"):
        np.testing.assert_array_equal(cached.prepared.image, prepare_case(cached.case, GRID, 1.0).image)
    assert len(keys(tmp_path / "cache")) == 2


def test_many_begin_a_store_at_once(scans: Path, tmp_path: Path) -> None:
    """Each has files of its own, and what describes the store is written by any of them."""
    case = prepare_case(find_cases(scans, RELEASES["brats2023-gli"])[0], GRID, 1.0)
    for attempt in range(8):
        folder, together = tmp_path / str(attempt), threading.Barrier(6)

        def keep(key: str, folder: Path = folder, together: threading.Barrier = together) -> None:
            own = store.Store(folder)
            together.wait()
            own.keep(key, case, {"grid": GRID})

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(keep, "abcdef"))
        found = store.Store(folder)
        found.refresh()
        assert sorted(found.keys) == list("abcdef")
        assert not list(folder.glob("*.partial"))


def test_progress_counts_up_to_the_total(scans: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    _open(scans, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_cases_that_are_there_count_for_no_progress(scans: Path, tmp_path: Path) -> None:
    """They take no time: counted, they would make those to come look as quick."""
    seen: list[tuple[int, int]] = []
    first, second = find_cases(scans, RELEASES["brats2023-gli"])
    for file in second.files:
        os.utime(file, (0, 0))  # what was written less than two seconds before is read again
    cached_cases([second], GRID, 1.0, tmp_path / "cache")
    both = cached_cases([first, second], GRID, 1.0, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert [cached.case for cached in both] == [first, second]
    assert seen == [(0, 1), (1, 1)]
