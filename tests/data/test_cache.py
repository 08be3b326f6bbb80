import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
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


def test_cached_arrays_are_the_prepared_ones_and_stay_on_disk(scans: Path, tmp_path: Path) -> None:
    release = RELEASES["brats2023-gli"]
    for cached in (_open(scans, tmp_path / "cache"), _open(scans, tmp_path / "cache")):  # written, then found
        assert [c.case for c in cached] == find_cases(scans, release)
        for entry in cached:
            fresh = prepare_case(entry.case, GRID, 1.0)
            for name in ("image", "mask", "truth"):
                array = getattr(entry.prepared, name)
                assert isinstance(array, np.memmap)
                assert not array.flags.writeable
                assert array.dtype == getattr(fresh, name).dtype
                np.testing.assert_array_equal(array, getattr(fresh, name))
            assert entry.prepared.geometry == fresh.geometry
            assert entry.prepared.voxel_hash == fresh.voxel_hash


def test_second_call_writes_nothing(scans: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    everything = [root, *root.rglob("*")]  # the root's own time tells of entries made and thrown away
    for path in everything:
        os.utime(path, ns=(10**18, 10**18))

    _open(scans, root)

    assert {path.stat().st_mtime_ns for path in everything} == {10**18}


def test_no_two_threads_parse_a_header_at_once(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, inside, met = np.load, threading.Semaphore(1), []

    def slow_load(*args: Any, **kwargs: Any) -> Any:
        alone = inside.acquire(blocking=False)
        met.append(not alone)
        time.sleep(0.05)
        if alone:
            inside.release()
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", slow_load)
    _open(scans, tmp_path / "cache")  # its two cases are prepared by two threads
    assert len(met) == 6
    assert not any(met)


def test_moved_scans_are_not_prepared_again(scans: Path, tmp_path: Path) -> None:
    _open(scans, tmp_path / "cache")
    moved = scans.rename(tmp_path / "elsewhere")
    cached = _open(moved, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert cached[0].case.seg.is_relative_to(moved)


@pytest.mark.parametrize("change", [{"grid": (16, 16, 24)}, {"spacing_mm": 2.0}, {"release": "brats2024-gli"}], ids=str)
def test_other_settings_get_entries_of_their_own(
    scans: Path, tmp_path: Path, change: dict[str, tuple[int, int, int] | float | str]
) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    changed = _open(scans, root, **change)  # type: ignore[arg-type]
    assert len(list(root.iterdir())) == 4
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

    (entry,) = (tmp_path / "cache").iterdir()
    assert ".partial" not in entry.name


def test_leftover_of_a_killed_run_with_this_process_number_is_no_obstacle(scans: Path, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    _open(scans, root)
    for entry in list(root.iterdir()):
        entry.rename(root / f"{entry.name}.partial-{os.getpid()}")

    assert len(_open(scans, root)) == 2


def test_progress_counts_up_to_the_total(scans: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    _open(scans, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]
