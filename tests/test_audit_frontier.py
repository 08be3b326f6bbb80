"""Runs share a frontier if they used the same scans and the same software."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_run
from rich.console import Console

from fedserdiff.errors import ConfigError
from fedserdiff.experiments.privacy_audit.frontier import audit_frontier

LEVELS = [[0.1, 0.1], [0.8, 0.2], [0.5, 0.7]]


def changed(run: Path, provenance: dict[str, Any]) -> None:
    """Change what a run says of itself."""
    about = json.loads((run / "config.json").read_text())
    about["provenance"] |= provenance
    (run / "config.json").write_text(json.dumps(about))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs that need no audit: raw scans leave in one, nothing in the other."""
    raw = write_run(tmp_path, "rehearsal", 0, LEVELS).path
    return [raw, write_run(tmp_path, "local", 0, LEVELS, deployed=[1, 2]).path]


def test_runs_of_the_same_scans_stand_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    audit_frontier(Console(quiet=True), runs, tmp_path / "out")
    frontier = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert [row[0] for row in frontier["rows"]] == ["rehearsal", "local"]


def test_a_run_of_scans_that_changed_since_stands_beside_none(runs: list[Path], tmp_path: Path) -> None:
    """Names, patients and settings are the same."""
    changed(runs[1], provenance={"scans": {"north": "scans of north", "west": "rolled"}})
    with pytest.raises(ConfigError, match=r"use different scans or cases of west$"):
        audit_frontier(Console(quiet=True), runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_by_other_versions_stands_beside_none(runs: list[Path], tmp_path: Path) -> None:
    versions = json.loads((runs[1] / "config.json").read_text())["provenance"]["versions"]
    changed(runs[1], provenance={"versions": versions | {"python": "3.0"}})
    audit_frontier(Console(quiet=True), runs, tmp_path / "out")
    changed(runs[1], provenance={"versions": versions | {"torch": "1.0"}})
    with pytest.raises(ConfigError, match=rf"with different versions: torch {re.escape(versions['torch'])}, 1\.0"):
        audit_frontier(Console(quiet=True), runs, tmp_path / "out")
