"""Timings and memory, printed and never asserted: what Flower and Ray cost, and whether a long stream grows."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from commands.common import clear_errors
from commands.simulation import CACHE, CASES, Federation, open_federation, run_simulation
from fedserdiff.config import make_config
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.federation import phantom_federation
from fedserdiff.report.events import RunEvents
from fedserdiff.threads import use_cpus
from sites.evaluation import evaluate
from strategies.base import make_strategy
from strategies.run_directory import RunDirectory

from accuracy_benchmark import accuracy
from direct_training import train_stage
from inference_benchmark import inference
from stage_costs import LEAST_STAGES, StageCosts, growth, in_words, medians
from step_benchmark import step

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(inference)
app.command()(accuracy)
app.command()(step)


@dataclass(frozen=True)
class Direct:
    """The same stream with no Flower and no Ray: seconds of training and scoring, and the final weights."""

    seconds: float
    weights: dict[str, torch.Tensor]


@app.command()
def overhead(
    out: Annotated[Path, typer.Option(help="New directory for the run and overhead.json.")],
    sites: Annotated[int, typer.Option(help="Number of phantom hospitals.")] = 3,
    profile: Annotated[str, typer.Option(help="Profile of the run.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
) -> None:
    """Time fine-tuning through Flower and Ray against the same rounds called directly, and compare the weights.

    The direct rounds are run before and after: their mean is compared, and their difference is this machine's drift.
    """
    console = Console()
    with clear_errors("nothing: timings stand at the end of a run"):
        config = make_config(profile, method="fine-tune", seed=seed)
        named = phantom_federation(sites, config, CACHE / "phantom")
        federation = open_federation(config, named, CASES)
        run = RunDirectory.new(out)
        with console.status("directly"):
            before = _direct(federation)
        with console.status("through Flower and Ray"):
            started = time.monotonic()
            results = run_simulation(federation, run, CASES, RunEvents())
            whole = time.monotonic() - started
        with console.status("directly, again"):
            after = _direct(federation)
    figures = _figures((before, after), results, whole, run)
    run.write_json("overhead.json", figures)
    table = Table("figure", "value", title=f"Flower and Ray: fine-tune, {sites} phantom sites, {profile}, seed {seed}")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    console.print(table)


@app.command()
def scale(
    out: Annotated[Path, typer.Option(help="New directory for the run and scale.json.")],
    stages: Annotated[int, typer.Option(help="Number of phantom hospitals, each a stage; at least 3.")] = 50,
    profile: Annotated[str, typer.Option(help="Profile of the run.")] = "smoke",
    method: Annotated[str, typer.Option(help="Method of the run.")] = "ser-diff",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="After every so many stages a whole row of R is scored.")] = 10,
    evaluate_sites: Annotated[int, typer.Option(help="How many sites score it; 0 for all.")] = 5,
) -> None:
    """Print what each stage of a long stream costs, and whether that grows: seconds, peak memory (Linux), bytes."""
    console = Console()
    with clear_errors("nothing: figures stand at the end of a run"):
        config = make_config(
            profile, method=method, seed=seed, cpus_per_site=1,
            evaluate_every=evaluate_every, evaluate_sites=evaluate_sites,
        )  # fmt: skip
        with console.status("scanning phantoms"):
            named = phantom_federation(stages, config, CACHE / "phantom")
        federation = open_federation(config, named, CASES)
        there = len(make_strategy(federation.config, RunEvents()).stages([site.name for site in named]))
        if there < LEAST_STAGES:
            raise ConfigError(f"{method} on {stages} sites has {there} stages, fewer than {LEAST_STAGES}: what grows?")
        run = RunDirectory.new(out)
        about = (
            f"{method}, {stages} phantom sites, {profile}, seed {seed}, whole rows of R every {evaluate_every} stages "
            f"on {evaluate_sites or stages} sites, {os.cpu_count()} CPUs"
        )
        console.print(f"What each stage costs: {about}", highlight=False, soft_wrap=True)
        watch = StageCosts(run, lambda cost: console.print(f"  {in_words(cost)}", highlight=False, soft_wrap=True))
        run_simulation(federation, run, CASES, watch)
        run.write_json("scale.json", {"about": about, "stages": watch.costs, "medians": medians(watch.costs)})
        for line in growth(watch.costs):
            console.print(line, highlight=False, soft_wrap=True)


def _direct(federation: Federation) -> Direct:
    """Run every round and every evaluation of a fine-tuning stream by plain calls."""
    config = federation.config
    use_cpus(config.cpus_per_site)
    started = time.monotonic()
    student = new_student(config)
    with TemporaryDirectory() as tables:
        _evaluate(student, federation, 0, Path(tables))
        for stage, hospital in enumerate(federation.hospitals, 1):
            train_stage(student, stage, hospital, config)
            _evaluate(student, federation, stage, Path(tables))
    return Direct(time.monotonic() - started, student.state_dict())


def _evaluate(student: Student, federation: Federation, stage: int, tables: Path) -> None:
    for hospital in federation.hospitals:
        evaluate(student, hospital.test, federation.config, stage, tables / f"{hospital.site.name}.csv")


def _figures(
    directly: tuple[Direct, Direct], results: dict[str, Any], whole: float, run: RunDirectory
) -> dict[str, Any]:
    seconds = results["seconds"]
    at_work = sum(value for name, value in seconds.items() if name.startswith(("stage", "evaluation")))
    through = torch.load(run.path / "student.pt", weights_only=True)
    before, after = directly
    mean = (before.seconds + after.seconds) / 2
    return {
        "directly, before and after, s": [round(direct.seconds, 1) for direct in directly],
        "through Flower and Ray: whole, s": whole,
        "through Flower and Ray: stages and evaluations, s": at_work,
        "start-up and stop, s": whole - at_work,
        "over the same training, %": 100 * (at_work / mean - 1),
        "weights are equal": all(torch.equal(before.weights[name], through[name]) for name in before.weights),
        "versions": json.loads((run.path / "config.json").read_text())["versions"],
    }


if __name__ == "__main__":
    app()
