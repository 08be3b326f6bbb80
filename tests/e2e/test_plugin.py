"""A method and a network from a package outside the repository: in a simulation and in a deployment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_plugin import SOURCES, install
from kill_points import ONE_CPU

from fedserdiff import methods, plugins
from fedserdiff.experiments.local_federation import LocalFederation
from fedserdiff.model_file import load_student
from fedserdiff.settings.experiment import Settings

ROOT = Path(__file__).parents[2]
LIMIT_S = 900
CHOICE = (
    *("--method", "size-prior", "--set", "method.strength=3.0", "--set", "network.coarse=plain"),
    *("--set", "network.coarse_arguments={width=12}"),
)


def forget() -> None:
    for known in (plugins.installed, methods._foreign):
        known.cache_clear()


@pytest.fixture(scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package is on the path of this process and of all that it starts, with its entry points."""
    paths = [str(SOURCES), str(install(tmp_path_factory.mktemp("installed")))]
    with pytest.MonkeyPatch.context() as patch:
        for path in paths:
            patch.syspath_prepend(path)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH", "")])))
        forget()
        yield
    forget()


@pytest.fixture(scope="module")
def simulated(_installed: None, workplace: Path) -> Path:
    """The run's folder. In a process of its own: those of `preloaded` have their path already."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "simulate.py"), "--profile", "smoke", "--sites", "2"),
            *("--out", "plugin", *CHOICE),
        ],
        cwd=workplace,
        env={**os.environ, **ONE_CPU},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace / "plugin"


def results_of(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    return results


def test_the_methods_term_and_record_are_those_of_the_run(simulated: Path) -> None:
    results = results_of(simulated)
    first, second = results["losses"]
    assert (set(first), set(second)) == ({"segmentation"}, {"segmentation", "prior"}), "stage 1 has no past"
    assert results["bytes_out"]["site-1"]["region-shares"] > 0


def test_the_student_of_the_run_has_the_network(simulated: Path) -> None:
    config = Settings.from_dict(json.loads((simulated / "config.json").read_text()))
    student = load_student(config, simulated / "student.pt")
    assert type(student.coarse).__name__ == "Plain"
    assert next(student.coarse.parameters()).shape == (12, 4, 3, 3)


def test_hospitals_that_allow_it_end_with_the_simulations_results(
    simulated: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = Settings.from_dict(json.loads((simulated / "config.json").read_text()))
    with LocalFederation(tmp_path_factory.mktemp("deployed") / "federation", config) as federation:
        told = (federation.kit("site-2") / "site.toml").read_text()
        assert 'allow = ["size-prior", "plain"]' in told

        refusing = federation.kit("site-2") / "site.toml"
        refusing.write_text(told.replace('["size-prior", "plain"]', '["plain"]'))
        federation.start_hospital("site-2")
        assert federation.exit_code("site-2", LIMIT_S) == 1
        assert "allow: the method size-prior does not come with fedserdiff" in federation.log("site-2").read_text()
        refusing.write_text(told)

        federation.start_coordinator()
        for site in ("site-1", "site-2"):
            federation.start_hospital(site)
        federation.start_run()
        federation.wait_for_run(LIMIT_S)
        deployed, expected = results_of(federation.run), results_of(simulated)
    assert deployed["losses"] == expected["losses"]
    assert deployed["bytes_out"]["site-1"]["region-shares"] == expected["bytes_out"]["site-1"]["region-shares"]
