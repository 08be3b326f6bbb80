"""Hospitals that hold the same scan, on the real engine: salted hashes cross the wire, the later one drops it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedserdiff.federation import phantom_federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.client_app import Premises, make_client_app
from strategies.run_directory import RunDirectory
from strategies.server_app import make_server_app

COPY = "BraTS2021_09999"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("overlap")


@pytest.fixture(scope="module")
def config(folder: Path) -> Settings:
    """Two hospitals, the second of which holds a scan of the first under a name of its own release."""
    config = make_settings("smoke", {"training.rounds": 1, "machine.site_timeout_s": 300})
    first, second = phantom_federation(2, config, folder / "phantom")
    scan = sorted(Path(first.path).iterdir())[0]
    for file in scan.iterdir():
        copy = Path(second.path) / COPY / file.name.replace(scan.name, COPY)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(file, copy)
    return config.replace(sites=(first, second))


def results_of(config: Settings, folder: Path) -> dict[str, Any]:
    """Run the two halves, joined by nothing but the wire."""
    run = RunDirectory.new(folder / "run")
    simulate(
        make_server_app(config, run, RunEvents()),
        make_client_app(config, Premises(folder / "cache", run.hospitals)),
        2,
        Resources(1),
        folder / "flower.log",
        60,
    )
    results: dict[str, Any] = json.loads((run.path / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def shared(config: Settings, folder: Path) -> dict[str, Any]:
    return results_of(config, folder / "shared")


def test_a_scan_of_two_hospitals_counts_at_the_first_alone(
    shared: dict[str, Any], config: Settings, folder: Path
) -> None:
    """The later hospital trains and scores as if the scan had never been in its folder."""
    first, second = config.sites
    own = tuple(sorted(case.name for case in Path(second.path).iterdir() if case.name != COPY))
    assert len(own) == 3
    named = config.replace(sites=(first, Site(second.name, second.release, second.path, own)))
    by_hand = results_of(named, folder / "by hand")
    for name in ("R", "R_coarse", "losses"):
        assert shared[name] == by_hand[name]
    assert by_hand["overlap"]["left_out"] == {}


def test_results_say_how_many_scans_were_left_out_and_name_none(
    shared: dict[str, Any], config: Settings, folder: Path
) -> None:
    assert shared["overlap"] == {"leaks": False, "left_out": {"site-2": 1}, "kept": {}, "cases": []}
    for file in (folder / "shared" / "run").iterdir():
        if file.is_file():
            assert COPY.encode() not in file.read_bytes()
