"""Measure time and memory, without asserting anything; the command here tests whether costs grow along a stream."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.opened_federation import Cache, open_federation
from fedserdiff.experiments.simulation import run_simulation
from fedserdiff.federation import phantom_federation
from fedserdiff.report.console import open_console
from fedserdiff.settings.experiment import DEFAULT_METHOD
from fedserdiff.settings.sources import make_settings
from strategies.run_directory import RunDirectory
from strategies.stream import make_stream

from benchmarks.accuracy import accuracy
from benchmarks.gpu.command import gpu
from benchmarks.inference import inference
from benchmarks.overhead import overhead
from benchmarks.peers.command import peers
from benchmarks.stage_costs import LEAST_STAGES, StageCosts, growth, in_words, medians
from benchmarks.step import step

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(inference)
app.command()(accuracy)
app.command()(overhead)
app.command()(step)
app.command()(gpu)
app.command()(peers)


@app.command()
def scale(
    out: Annotated[Path, typer.Option(help="New directory for the run and scale.json.")],
    stages: Annotated[int, typer.Option(help="Number of phantom hospitals, one stage each; at least 3.")] = 50,
    profile: Annotated[str, typer.Option(help="Profile of the run.")] = "smoke",
    method: Annotated[str, typer.Option(help="Method of the run.")] = DEFAULT_METHOD,
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Number of stages between full rows of R.")] = 10,
    evaluate_sites: Annotated[int, typer.Option(help="Number of sites that score a full row; 0 for all.")] = 5,
) -> None:
    """Print the costs of each stage of a long stream, and their growth: seconds, peak memory (Linux) and bytes."""
    console = open_console()
    with clear_errors("nothing: figures are written at the end of a run"):
        scoring = {"scoring.evaluate_every": evaluate_every, "scoring.evaluate_sites": evaluate_sites}
        config = make_settings(profile, {"machine.cpus_per_site": 1, **scoring}, method=method, seed=seed)
        with console.status("scanning phantoms"):
            named = phantom_federation(stages, config, Cache().phantoms)
        federation = open_federation(config, named, Cache().prepared)
        there = len(make_stream(federation.config).stages([site.name for site in named]))
        if there < LEAST_STAGES:
            raise ConfigError(f"{method} on {stages} sites has {there} stages: growth needs at least {LEAST_STAGES}")
        run = RunDirectory.new(out)
        about = (
            f"{method}, {stages} phantom sites, {profile}, seed {seed}, full rows of R every {evaluate_every} stages "
            f"on {evaluate_sites or stages} sites, {os.cpu_count()} CPUs"
        )
        console.print(f"Costs of each stage: {about}", highlight=False, soft_wrap=True)
        watch = StageCosts(run, lambda cost: console.print(f"  {in_words(cost)}", highlight=False, soft_wrap=True))
        run_simulation(federation, run, Cache().prepared, watch)
        run.write_json("scale.json", {"about": about, "stages": watch.costs, "medians": medians(watch.costs)})
        for line in growth(watch.costs):
            console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
