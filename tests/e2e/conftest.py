"""Whole runs through the command line, on real Flower and Ray."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import preloaded
import pytest
from filelock import FileLock
from kill_points import ONE_CPU

from fedserdiff.experiments import local_federation

ROOT = Path(__file__).parents[2]
WAIT_S = 900  # for another worker's run
TRACKED = ("--tracker", "tensorboard") if importlib.util.find_spec("tensorboard") else ()
Simulate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def preloaded_workers() -> Iterator[None]:
    """Fork Ray's workers, hospitals and Flower's programs, in every test that starts them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in preloaded.environment().items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", preloaded.python())
        own = sysconfig.get_path
        patch.setattr(sysconfig, "get_path", lambda name: preloaded.scripts() if name == "scripts" else own(name))
        patch.setattr(local_federation, "_descendants", preloaded.descendants)
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory of the file's own, with a cache that all of them share."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    cache.mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "cache").symlink_to(cache)
    return folder


@pytest.fixture(scope="module")
def simulate(workplace: Path) -> Simulate:
    """Run ``scripts/simulate.py`` at smoke size with more arguments; its output is captured."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**ONE_CPU, "COLUMNS": "200"}
        return preloaded.run("--profile", "smoke", *arguments, cwd=workplace, env=env, timeout_s=WAIT_S)

    return call


@pytest.fixture(scope="module")
def run(simulate: Simulate, workplace: Path) -> Callable[..., dict[str, Any]]:
    """Run a simulation that must succeed and return its ``results.json``; its directory is ``NAME``."""

    def call(name: str, *arguments: str) -> dict[str, Any]:
        done = simulate("--out", name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        results: dict[str, Any] = json.loads((workplace / name / "results.json").read_text())
        return results

    return call


@pytest.fixture(scope="module")
def once(
    simulate: Simulate, workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """As `run`, but who first needs the run of this name makes it for all; each file has a copy of its own."""
    base = tmp_path_factory.getbasetemp()
    common = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "runs"

    def call(name: str, *arguments: str) -> dict[str, Any]:
        common.mkdir(exist_ok=True)
        made, done = common / name, common / f"{name}.done"
        with FileLock(common / f"{name}.lock", timeout=WAIT_S):
            if not done.exists():
                process = simulate("--out", str(made), *arguments)
                assert process.returncode == 0, process.stdout + process.stderr
                done.touch()
        shutil.copytree(made, workplace / name)
        results: dict[str, Any] = json.loads((workplace / name / "results.json").read_text())
        return results

    return call


@pytest.fixture(scope="module")
def fine_tune(once: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two hospitals by fine-tuning."""
    return once("fine-tune", "--sites", "2", "--method", "fine-tune")


@pytest.fixture(scope="module")
def pooled(once: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Two hospitals' data in one."""
    return once("pooled", "--sites", "2", "--method", "pooled")


@pytest.fixture(scope="module")
def ser_diff(once: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Three hospitals by SER-Diff, followed in TensorBoard where that is installed."""
    return once("ser-diff", "--sites", "3", "--method", "ser-diff", *TRACKED)
