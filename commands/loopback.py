"""Rehearse a deployment on this machine: a coordinator and hospitals as separate processes, with TLS and keys."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from commands import options
from commands.common import clear_errors
from fedserdiff.config import make_config
from fedserdiff.errors import ConfigError, FederationError
from fedserdiff.report.console import open_console
from sites.ledger import read_ledger

if TYPE_CHECKING:
    from commands.local_federation import LocalFederation

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_TOLERANCE = 1e-5
"""Largest difference between the R of a deployment and of a simulation that passes (in Dice, of 1)."""


@app.command()
def main(
    sites: options.Sites = None,
    federation: options.FederationFile = None,
    method: Annotated[str, options.DEPLOYABLE_METHOD] = options.DEFAULTS.method,
    profile: Annotated[str, options.PROFILE] = options.DEFAULTS.profile,
    seed: Annotated[int, options.SEED] = options.DEFAULTS.seed,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New directory for everything.",
            show_default="runs/TIME-loopback-METHOD-seedSEED",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds after which the run is given up.",
            show_default="86400, a day",
            rich_help_panel=options.RUNNING,
        ),
    ] = 24 * 3600,
) -> None:
    """Run a coordinator and hospitals as separate processes, then the same in a simulation, and compare."""
    console = open_console()
    with clear_errors("what the processes wrote is kept"):
        if federation is not None and sites is not None:
            raise ConfigError("--sites and --federation: give one of them")
        # with torch, Flower and Ray, for which help and completion should not wait
        from commands.local_federation import LocalFederation, check_checkout
        from commands.opened_federation import CASES, open_named
        from commands.simulation import run_simulation
        from fedserdiff.report.live import LiveView
        from fedserdiff.report.tables import print_results
        from strategies.run_directory import RunDirectory

        check_checkout()
        config = make_config(profile, method=method, seed=seed)
        config = config.replace(cpus_per_site=min(config.cpus_per_site, os.cpu_count() or 1))
        opened = open_named(console, config, federation, 3 if sites is None else sites)
        folder = out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-loopback-{method}-seed{seed}"
        RunDirectory.new(folder)
        names = [site.name for site in opened.config.sites]
        with LocalFederation(folder / "federation", opened.config) as deployed:
            console.print(
                f"coordinator at localhost:{deployed.port}, TLS, one key a hospital; logs in {escape(str(folder))}",
                soft_wrap=True,
            )
            deployed.start_coordinator()
            for name in names:
                deployed.start_hospital(name)
            deployed.start_run()
            deployed.wait_for_run(timeout, lambda line: console.print(escape(line), highlight=False, soft_wrap=True))
        results = json.loads((deployed.run / "results.json").read_text())
        print_results(console, results, opened.data)
        differences = [_compare_bytes(console, name, deployed, results) for name in names]
        console.print("the same in a simulation:")
        simulated = RunDirectory.new(folder / "simulation")
        with LiveView(console, simulated.hospitals) as view:
            run_simulation(opened, simulated, CASES, view)
        largest = _largest_difference(results, json.loads((simulated.path / "results.json").read_text()))
        console.print(f"largest difference between R of the deployment and of the simulation: {largest:.3g}")
        if largest > _TOLERANCE or any(differences):
            raise FederationError("the deployment and the simulation, or the ledgers and the coordinator, disagree")


def _compare_bytes(console: Console, site: str, deployed: "LocalFederation", results: Mapping[str, Any]) -> int:
    """Print what a hospital's ledger says has left and what the coordinator received; return the difference."""
    left: int = sum(entry.bytes for entry in read_ledger(deployed.ledger(site)))
    received: int = sum(results["bytes_out"][site].values())
    console.print(f"{site}: its ledger says {left:,} bytes left, the coordinator received {received:,}", soft_wrap=True)
    return left - received


def _largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the largest absolute difference between two runs' Dice, over masks, regions, sites and stages."""
    return max(
        float(np.abs(np.array(one[mask]["dice"][key]) - np.array(other[mask]["dice"][key])).max())
        for mask in ("R", "R_coarse")
        for key in one[mask]["dice"]
    )
