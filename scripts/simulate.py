"""Simulate a federation: hospitals arrive one after another, and one student learns from each."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from fedserdiff.config import PROFILES, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, get_method, label
from fedserdiff.report.live import LiveView
from fedserdiff.report.plots import plot_examples
from fedserdiff.report.tables import print_results
from strategies.run_directory import RunDirectory

from command import clear_errors
from simulation import CASES, Federation, examples, open_named, run_simulation

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sites: Annotated[int | None, typer.Option(help="Number of phantom hospitals (3 if no --federation).")] = None,
    federation: Annotated[
        Path | None, typer.Option(help="TOML file that names hospitals with data of their own.")
    ] = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(map(label, METHODS))}.")] = "ser-diff",
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seeds everything: phantom patients, weights, batches, noise.")] = 0,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds a stage.")] = None,
    lambda_kd: Annotated[
        float | None, typer.Option("--lambda", help="Weight of distillation against segmentation.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="first (as the paper) or latest.")] = None,
    participation: Annotated[
        str | None, typer.Option(help="arriving (the new site alone) or cumulative (all that have arrived).")
    ] = None,
    shared_error_maps: Annotated[
        str | None, typer.Option(help="null (no patient in), mri (conditioned on scans) or none.")
    ] = None,
    cpus_per_site: Annotated[float | None, typer.Option(help="CPUs that Ray reserves for a site at work.")] = None,
    gpus_per_site: Annotated[
        float | None, typer.Option(help="GPUs for a site at work; 1 where this machine has one, else 0.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="An existing Ray cluster, such as HOST:PORT.")] = None,
    out: Annotated[Path | None, typer.Option(help="New directory for the results; by default one under runs/.")] = None,
) -> None:
    """Simulate a federation: hospitals arrive one after another, and one student learns from each."""
    console = Console()
    with clear_errors("stages that had ended stand in the run directory, if the run had begun"):
        get_method(method)
        if federation is not None and sites is not None:
            raise ConfigError("--sites and --federation: give one of them")
        given: dict[str, Any] = {
            "rounds": rounds,
            "lambda_kd": lambda_kd,
            "teacher": teacher,
            "participation": participation,
            "shared_error_maps": shared_error_maps,
            "cpus_per_site": cpus_per_site,
            "gpus_per_site": float(torch.cuda.is_available()) if gpus_per_site is None else gpus_per_site,
        }
        config = make_config(profile, method=method, seed=seed, **{k: v for k, v in given.items() if v is not None})
        if cpus_per_site is None and ray_address is None:
            config = config.replace(cpus_per_site=min(config.cpus_per_site, os.cpu_count() or 1))
        opened = open_named(console, config, federation, 3 if sites is None else sites)
        run = RunDirectory.new(out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{method}-seed{seed}")
        _run(console, opened, run, "phantom" if federation is None else federation.name, ray_address)


def _run(console: Console, opened: Federation, run: RunDirectory, data: str, ray_address: str | None) -> None:
    """Run, print the tables and draw the picture."""
    config = opened.config
    with LiveView(console, run.hospitals) as view:
        results = run_simulation(opened, run, CASES, view, ray_address)
    print_results(console, results, data)
    about = f"{label(config.method)}, seed {config.seed}, {data} data"
    title = f"{about}, final student; Dice of the whole volume, mean of regions"
    plot_examples(examples(opened, run), title, run.path / "examples.png")
    files = "results.json, results.csv, examples.png, student.pt, config.json"
    console.print(f"Results in {escape(str(run.path))}: {files}")


if __name__ == "__main__":
    app()
