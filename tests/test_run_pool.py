"""Folders of a comparison belong to runs by content, and no run is destroyed."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedserdiff import locks
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.run_pool import RunPool
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from strategies.run_directory import CHECKPOINTS, RunDirectory

SITES = tuple(Site(name, "brats2021", f"/scans/{name}", (f"{name}-1", f"{name}-2")) for name in ("north", "west"))
CONFIG = make_settings("smoke", method="fine-tune", sites=SITES)
SCANS = {"north": "a", "west": "b"}
ROLLED = {"north": "a", "west": "rolled"}


@pytest.fixture
def pool(tmp_path: Path) -> RunPool:
    return RunPool(tmp_path, tmp_path / "cache", 1, Console(record=True, width=200, file=open(os.devnull, "w")), "ours")


def write(folder: Path, config: Settings = CONFIG, scans: dict[str, str] = SCANS, state: bool = False) -> Path:
    """A run's folder, as far as a pool looks at it."""
    folder.mkdir(parents=True)
    RunDirectory(folder).write_config(config, {"name": "ours", "overlap": {}, "scans": scans})
    if state:
        (folder / CHECKPOINTS[0]).touch()
    return folder


def place(pool: RunPool, folder: Path, config: Settings, scans: dict[str, str]) -> str:
    """Return where a run that is missing would go."""
    pool._scans = {config: scans}
    return pool._folder(folder, config, set()).name


def test_a_run_is_used_wherever_it_ran_and_wherever_its_scans_lay(pool: RunPool, tmp_path: Path) -> None:
    run = write(
        tmp_path / "runs" / "fine-tune-seed0",
        CONFIG.replace({"machine.cpus_per_site": 8, "machine.gpus_per_site": 1, "machine.retries": 0}),
    )
    moved = CONFIG.replace(sites=tuple(Site(s.name, s.release, f"/moved/{s.name}", s.cases) for s in SITES))
    assert pool.complete({moved: SCANS}) == {moved: run}


@pytest.mark.parametrize("folder", ["runs", "first-stages"])
def test_a_run_of_other_scans_is_not_found_and_said_to_be_kept(pool: RunPool, tmp_path: Path, folder: str) -> None:
    (tmp_path / "runs").mkdir()
    write(tmp_path / folder / "fine-tune-seed0")
    pool._scans = {CONFIG: ROLLED}
    assert pool._find(tmp_path / folder, CONFIG) is None
    pool._tell_of_unused(tmp_path / folder, [CONFIG])
    said = pool._console.export_text()
    assert f"{folder}/fine-tune-seed0 is kept but not used: scans or segmentations of west have changed" in said
    pool._scans = {CONFIG: SCANS}
    pool._tell_of_unused(tmp_path / folder, [CONFIG])
    assert not pool._console.export_text(), "nothing is said of a run that is used"


def test_a_new_run_takes_no_name_and_no_state_of_another(pool: RunPool, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write(runs / "fine-tune-seed0")
    write(runs / "fine-tune-seed0-2.partial", scans={"north": "x", "west": "y"}, state=True)
    (write(runs / "fine-tune-seed0-3.partial", state=True) / "config.json").write_text("{half")
    write(runs / "fine-tune-seed0-4.partial", scans={"north": "x", "west": "y"})
    assert place(pool, runs, CONFIG, ROLLED) == "fine-tune-seed0-4", "nothing was done there"


def test_a_run_that_has_begun_goes_on_in_its_own_folder(pool: RunPool, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write(runs / "fine-tune-seed0-2.partial", scans=ROLLED, state=True)
    assert place(pool, runs, CONFIG, ROLLED) == "fine-tune-seed0-2"
    assert place(pool, runs, CONFIG, SCANS) == "fine-tune-seed0"


def test_a_run_opens_its_folder_alone_and_never_with_the_state_of_another(tmp_path: Path) -> None:
    begun = write(tmp_path / "begun", state=True)
    with pytest.raises(ConfigError, match="has the state of another run: scans or segmentations of west"):
        RunDirectory.of_comparison(begun, CONFIG, ROLLED)
    assert (begun / CHECKPOINTS[0]).exists()
    idle = write(tmp_path / "idle")
    (idle / "hospitals" / "west").mkdir(parents=True)
    (idle / "output.log").touch()
    RunDirectory.of_comparison(idle, CONFIG, ROLLED)
    assert sorted(p.name for p in idle.iterdir()) == ["lock", "output.log"]
    with pytest.raises(ConfigError, match="another process is working"):
        RunDirectory.of_comparison(idle, CONFIG, ROLLED, patience_s=0)


def test_without_locks_no_other_comparison_is_made_up(
    pool: RunPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(number: int) -> Any:
        def fails(*call: object) -> None:
            raise OSError(number, os.strerror(number))

        return fails

    locks._warn.cache_clear()
    monkeypatch.setattr(fcntl, "flock", flock(errno.ENOLCK))
    assert pool.complete({}) == {}
    monkeypatch.setattr(fcntl, "flock", flock(errno.EWOULDBLOCK))
    with pytest.raises(ConfigError, match="another comparison is running in this folder"):
        pool.complete({})
    locks._warn.cache_clear()


def test_a_comparison_of_a_finished_run_reads_no_more_than_its_config(pool: RunPool, tmp_path: Path) -> None:
    run = write(tmp_path / "runs" / "fine-tune-seed0")
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    pool.complete({CONFIG: SCANS})
    assert {p.name: p.stat().st_mtime_ns for p in run.iterdir()} == before
    assert json.loads((run / "config.json").read_text())["provenance"]["scans"] == SCANS
