"""Rehearsal of a deployment on one machine, compared with a simulation of the same: ``fedserdiff loopback``."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from fedserdiff.errors import FederationError
from fedserdiff.experiment_file import hospitals_of, phantoms_of
from fedserdiff.experiments.local_federation import LocalFederation, check_checkout
from fedserdiff.experiments.opened_federation import Cache, open_named
from fedserdiff.experiments.simulated_run import new_folder
from fedserdiff.experiments.simulation import run_simulation
from fedserdiff.report.live import LiveView
from fedserdiff.report.tables import print_results
from fedserdiff.settings.sources import Layers
from sites.ledger import read_ledger
from strategies.run_directory import RunDirectory

_TOLERANCE = 1e-5
"""Largest difference between the R of a deployment and of a simulation that passes (in Dice, of 1)."""


def rehearse(
    console: Console,
    layers: Layers,
    experiment: Path | None,
    sites: int | None,
    cache: Cache,
    out: Path | None,
    timeout_s: float,
) -> None:
    """Run coordinator and hospitals as separate processes, then the same as a simulation, and compare.

    Parameters are as in `begin`; the deployment is aborted after `timeout_s` seconds.

    Raises
    ------
    FederationError
        If the deployment fails, or its results or ledgers differ from those of the simulation.
    FedSerDiffError
        As in `begin`.
    """
    check_checkout()
    hospitals = hospitals_of(experiment, sites)
    config = layers.settings()
    config = config.replace({"machine.cpus_per_site": min(config.machine.cpus_per_site, os.cpu_count() or 1)})
    folder, phantoms = out or new_folder(config, "loopback-"), phantoms_of(experiment) if sites is None else sites
    opened = open_named(console, config, hospitals, phantoms, cache, beside=folder.parent)
    folder = RunDirectory.new(folder).path
    names = [site.name for site in opened.config.sites]
    with LocalFederation(folder / "federation", opened.config) as deployed:
        console.print(
            f"coordinator at localhost:{deployed.port}, TLS, one key for each hospital; logs in {escape(str(folder))}",
            soft_wrap=True,
        )
        deployed.start_coordinator()
        for name in names:
            deployed.start_hospital(name)
        deployed.start_run()
        deployed.wait_for_run(timeout_s, lambda line: console.print(escape(line), highlight=False, soft_wrap=True))
    results = json.loads((deployed.run / "results.json").read_text())
    print_results(console, results, opened.data)
    differences = [_compare_bytes(console, name, deployed, results) for name in names]
    console.print("the same experiment as a simulation:")
    simulated = RunDirectory.new(folder / "simulation")
    with LiveView(console, simulated.hospitals) as view:
        run_simulation(opened, simulated, cache.prepared, view)
    largest = _largest_difference(results, json.loads((simulated.path / "results.json").read_text()))
    console.print(f"largest difference between R of the deployment and of the simulation: {largest:.3g}")
    if largest > _TOLERANCE or any(differences):
        raise FederationError(
            "results differ between deployment and simulation, or bytes between ledgers and coordinator; see the "
            "output above"
        )


def _compare_bytes(console: Console, site: str, deployed: LocalFederation, results: Mapping[str, Any]) -> int:
    """Print the bytes in a hospital's ledger and those that the coordinator received; return the difference."""
    left: int = sum(entry.bytes for entry in read_ledger(deployed.ledger(site)))
    received: int = sum(results["bytes_out"][site].values())
    console.print(f"{site}: its ledger says {left:,} bytes left, the coordinator received {received:,}", soft_wrap=True)
    return left - received


def _largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the largest absolute difference between two runs' Dice, over masks, regions, sites and stages.

    A score that only one of them has counts as a difference of 1 or more.
    """
    return max(
        float(np.abs(_scores(one[mask]["dice"][key]) - _scores(other[mask]["dice"][key])).max())
        for mask in ("R", "R_coarse")
        for key in one[mask]["dice"]
    )


def _scores(matrix: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    return np.array([[-1.0 if value is None else value for value in row] for row in matrix])
