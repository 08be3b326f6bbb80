"""Scores of a finished run's student on scans of unknown origin, for which the right adapter is not known."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.cache import CachedCase
from fedserdiff.device import use_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.opened_federation import Cache, reopen
from fedserdiff.files import write_whole
from fedserdiff.model_file import load_student
from fedserdiff.report.console import open_console, print_table
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import use_cpus
from sites.adapters import load_adapter
from sites.evaluation import predict_case, score_prediction
from strategies.run_directory import RunDirectory

_FILE = "unknown-origin.json"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(run: Annotated[Path, typer.Argument(help="Directory of a finished run of ser-diff-plus.")]) -> None:
    """Score the final student on the run's scored cases, each with the adapter that gives the least uncertainty.

    Only a simulation can do this, because adapters stay in their hospitals in a deployment. No adapter is written.
    """
    console = open_console()
    with clear_errors("nothing: scores are written at the end"):
        federation = reopen(console, RunDirectory(run), Cache())
        config = federation.config
        if not (run / "student.pt").is_file():
            raise ConfigError(f"{run}: has no student.pt: finish the run first")
        use_cpus(config.machine.cpus_per_site)
        device = use_device(config.machine)
        student = load_student(config, run / "student.pt").to(device)
        adapters = {
            site.name: load_adapter(run / "hospitals" / site.name, config, site.name, (len(config.sites) + 1, 0))
            for site in config.sites
        }
        for adapter in filter(None, adapters.values()):
            adapter.to(device)
        if not any(adapters.values()):
            raise ConfigError(f"{run}: no hospital of this run has an adapter: choose a run of ser-diff-plus")
        rows: list[dict[str, Any]] = []
        with console.status("scoring"):
            for hospital in federation.hospitals:
                scans = [_score(student, cached, adapters, config) for cached in hospital.scored(config)]
                rows.append(
                    {
                        "site": hospital.site.name,
                        "cases": len(scans),
                        "dice": float(np.mean([dice for _, dice in scans])),
                        "through its own adapter": sum(site == hospital.site.name for site, _ in scans),
                    }
                )
        report = {"data": federation.data, "method": config.method.name, "seed": config.seed, "sites": rows}
        write_whole(run / _FILE, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    table = Table(
        "site", "Dice %", "own adapter chosen", title=f"Scans of unknown origin: {run.name}, {federation.data}"
    )
    for row in rows:
        table.add_row(
            row["site"], f"{100 * row['dice']:.1f}", f"{row['through its own adapter']} of {row['cases']} cases"
        )
    print_table(console, table)
    console.print(f"mean over sites: {100 * float(np.mean([row['dice'] for row in rows])):.1f} % ({run / _FILE})")


def _score(
    student: Student, cached: CachedCase, adapters: Mapping[str, SiteAdapter | None], config: Settings
) -> tuple[str, float]:
    """Return the site whose adapter gives the least uncertainty, and the refined Dice with it, mean of regions."""
    brain = torch.from_numpy((cached.prepared.image != 0).any(0))
    found = {site: predict_case(student, cached, config, adapter) for site, adapter in adapters.items()}
    site = min(found, key=lambda site: doubt(found[site].coarse, brain))
    return site, mean_over_regions(score_prediction(found[site], cached), "refined", "dice")


def doubt(coarse: torch.Tensor, brain: torch.Tensor) -> float:
    """Return the mean entropy, in nats, of region probabilities P (3, X, Y, Z) over the brain's voxels (X, Y, Z).

    It needs no labels: a student is certain of most voxels if it knows the scan's contrast (our choice).
    """
    p = coarse[:, brain].double().clamp(1e-9, 1 - 1e-9)
    return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean())


if __name__ == "__main__":
    app()
