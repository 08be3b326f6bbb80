"""Simulate a federation: hospitals arrive one after another, and one student learns from each."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from commands.common import DpClip, DpNoise, clear_errors
from commands.simulation import CASES, PHANTOM, Federation, examples, open_named, reopen, run_simulation
from fedserdiff.config import PROFILES, ExperimentConfig, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, get_method, label
from fedserdiff.report.live import LiveView
from fedserdiff.report.overlap import leak_warning
from fedserdiff.report.plots import plot_examples
from fedserdiff.report.tables import print_results
from fedserdiff.report.volumes import VOLUMES, write_volumes
from strategies.run_directory import RunDirectory

_PICTURE = "examples.png"  # the last file that a run writes
_METHOD = "ser-diff-plus"  # what keeps most without a raw scan: docs/explanation/retention.md
_MAY_CHANGE = ("retries", "site_failure")  # of a run that goes on

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sites: Annotated[int | None, typer.Option(help="Number of phantom hospitals (3 if no --federation).")] = None,
    federation: Annotated[
        Path | None, typer.Option(help="TOML file that names hospitals with data of their own.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(map(label, METHODS))}.", show_default=_METHOD)
    ] = None,
    profile: Annotated[str | None, typer.Option(help=f"One of {', '.join(PROFILES)}.", show_default="laptop")] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seeds everything: phantom patients, weights, batches, noise.", show_default="0"),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds a stage.")] = None,
    lambda_kd: Annotated[
        float | None, typer.Option("--lambda", help="Weight of distillation against segmentation.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="first (as the paper) or latest.")] = None,
    participation: Annotated[
        str | None, typer.Option(help="arriving (the new site alone) or cumulative (all that have arrived).")
    ] = None,
    shared_error_maps: Annotated[
        str | None,
        typer.Option(help="null (no patient in), mri (conditioned on scans) or none; else as the method does."),
    ] = None,
    dp_noise: DpNoise = None,
    dp_clip: DpClip = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps by which a student refines its mask.", show_default="4; 1 is fastest")
    ] = None,
    allow_overlap: Annotated[
        bool | None,
        typer.Option("--allow-overlap", help="Keep patients that an earlier site brought: the scores leak."),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="How often a site whose worker dies or runs out of memory is asked again.")
    ] = None,
    site_failure: Annotated[
        str | None, typer.Option(help="fail, or go-on with the others where a site has failed for good.")
    ] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(help="After every so many stages, and the last, all score the student; else who needs to (1)."),
    ] = None,
    evaluate_sites: Annotated[
        int | None, typer.Option(help="How many sites, drawn by the seed, score it then; 0 for all of them.")
    ] = None,
    cpus_per_site: Annotated[float | None, typer.Option(help="CPUs that Ray reserves for a site at work.")] = None,
    gpus_per_site: Annotated[
        float | None, typer.Option(help="GPUs for a site at work; 1 where this machine has one, else 0.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="An existing Ray cluster, such as HOST:PORT.")] = None,
    out: Annotated[Path | None, typer.Option(help="New directory for the results; by default one under runs/.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the interrupted run of this directory, by its own settings.")
    ] = None,
) -> None:
    """Simulate a federation: hospitals arrive one after another, and one student learns from each."""
    console = Console()
    run: RunDirectory | None = None

    def go_on() -> str:
        if run is None or not run.can_go_on:
            return ""
        return (
            f"All up to the last finished round is kept. Go on with:\n  python scripts/simulate.py --resume {run.path}"
        )

    with clear_errors("what was finished is kept", go_on):
        given: dict[str, Any] = {
            "method": method,
            "profile": profile,
            "seed": seed,
            "rounds": rounds,
            "lambda_kd": lambda_kd,
            "teacher": teacher,
            "participation": participation,
            "shared_error_maps": shared_error_maps,
            "dp_noise": dp_noise,
            "dp_clip": dp_clip,
            "sampling_steps": steps,
            "allow_overlap": allow_overlap,
            "retries": retries,
            "site_failure": site_failure,
            "evaluate_every": evaluate_every,
            "evaluate_sites": evaluate_sites,
            "cpus_per_site": cpus_per_site,
            "gpus_per_site": gpus_per_site,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if resume is not None:
            _refuse(
                {"--out": out, "--federation": federation}, "--resume goes on with its own hospitals in its own place"
            )
            interrupted = RunDirectory.of_interrupted(resume)
            config = _as_given(interrupted, given, sites)
            if (interrupted.path / _PICTURE).is_file():
                console.print(f"{escape(str(resume))} is finished: there is nothing to go on with")
                return
            run = interrupted
            opened = replace(reopen(console, run), config=config)
        else:
            config = _config(given, ray_address)
            if federation is not None and sites is not None:
                raise ConfigError("--sites and --federation: give one of them")
            opened = open_named(console, config, federation, 3 if sites is None else sites)
            run = RunDirectory.new(
                out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.method}-seed{config.seed}"
            )
        console.print(f"Run directory: {escape(str(run.path))}", soft_wrap=True)
        _run(console, opened, run, ray_address)


def _config(given: Mapping[str, Any], ray_address: str | None) -> ExperimentConfig:
    """Return the config of a new run."""
    defaults = {"method": _METHOD, "profile": "laptop", "gpus_per_site": float(torch.cuda.is_available())}
    get_method(given.get("method", _METHOD))
    config = make_config(**{**defaults, **given})
    if "cpus_per_site" not in given and ray_address is None:
        config = config.replace(cpus_per_site=min(config.cpus_per_site, os.cpu_count() or 1))
    return config


def _refuse(options: Mapping[str, object], why: str) -> None:
    wrong = [name for name, value in options.items() if value is not None]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: {why}")


def _as_given(run: RunDirectory, given: Mapping[str, Any], sites: int | None) -> ExperimentConfig:
    """Return the config of a run that goes on, with what may change as given; refuse what would be another run."""
    config, _ = run.read_config()
    differing = [
        f"{name} was {getattr(config, name)!r}, {value!r} is given"
        for name, value in given.items()
        if name not in _MAY_CHANGE and getattr(config, name) != value
    ]
    if sites is not None and sites != len(config.sites):
        differing.append(f"sites were {len(config.sites)}, {sites} is given")
    if differing:
        raise ConfigError(f"{run.path}: belongs to another run: {'; '.join(differing)}")
    return config.replace(**{name: given[name] for name in _MAY_CHANGE if name in given})


def _run(console: Console, opened: Federation, run: RunDirectory, ray_address: str | None) -> None:
    """Run, print the tables and draw the picture."""
    config = opened.config
    with LiveView(console, run.hospitals) as view:
        results = run_simulation(opened, run, CASES, view, ray_address)
    print_results(console, results, opened.data)
    about = f"{label(config.method)}, seed {config.seed}, {opened.data} data"
    warning = leak_warning(results["overlap"])
    shown = examples(opened, run)
    last = len(results["stages"]) - 1
    facts = f"{about}, profile {config.profile}, final student after stage {last} of {last}"
    write_volumes({label(config.method): shown}, facts, opened.data == PHANTOM, warning, run.path / VOLUMES)
    title = f"{about}, final student; Dice of the whole volume, mean of regions"
    plot_examples(shown, title if warning is None else f"{title}\n{warning}", run.path / _PICTURE)
    files = f"results.json, results.csv, {_PICTURE}, {VOLUMES}, student.pt, config.json"
    console.print(f"Results in {escape(str(run.path))}: {files}")
