"""Whole runs through the command line, on real Flower and Ray."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kill_points import ONE_CPU

ROOT = Path(__file__).parents[2]
TRACKED = ("--tracker", "tensorboard") if importlib.util.find_spec("tensorboard") else ()
Simulate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory whose cache all runs of the session share."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="session")
def simulate(workplace: Path) -> Simulate:
    """Run ``scripts/simulate.py`` at smoke size with more arguments; its output is captured."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "simulate.py"), "--profile", "smoke", *arguments],
            cwd=workplace,
            env={**os.environ, **ONE_CPU, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return call


@pytest.fixture(scope="session")
def run(simulate: Simulate, workplace: Path) -> Callable[..., dict[str, Any]]:
    """Run a simulation that must succeed and return its ``results.json``; its directory is ``NAME``."""

    def call(name: str, *arguments: str) -> dict[str, Any]:
        done = simulate("--out", name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        results: dict[str, Any] = json.loads((workplace / name / "results.json").read_text())
        return results

    return call


@pytest.fixture(scope="session")
def fine_tune(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two hospitals by fine-tuning."""
    return run("fine-tune", "--sites", "2", "--method", "fine-tune")


@pytest.fixture(scope="session")
def pooled(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two hospitals' data in one."""
    return run("pooled", "--sites", "2", "--method", "pooled")


@pytest.fixture(scope="session")
def ser_diff(run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Three hospitals by SER-Diff, followed in TensorBoard where that is installed."""
    return run("ser-diff", "--sites", "3", "--method", "ser-diff", *TRACKED)
