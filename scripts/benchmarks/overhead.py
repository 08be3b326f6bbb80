"""The cost of Flower and Ray: a stream run with them, compared with the same rounds called directly."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.experiments.opened_federation import Cache, Federation, open_federation
from fedserdiff.experiments.simulation import run_simulation
from fedserdiff.federation import phantom_federation
from fedserdiff.report.console import open_console, print_table
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.evaluation import evaluate
from strategies.run_directory import RunDirectory

from benchmarks.direct_training import train_stage
from benchmarks.machine import machine
from benchmarks.turns import Track, take_turns

_TURN_S = 10.0  # the speed of a virtual machine changes within half a minute
_WEIGHTS, _START_UP = "student.pt", "start-up.txt"


@dataclass(frozen=True)
class _Stream:
    """A stream to run: sites are in the settings, results go to a new folder."""

    config: Settings
    folder: Path
    directly: bool


def overhead(
    out: Annotated[Path, typer.Option(help="New directory for the runs and overhead.json.")],
    sites: Annotated[int, typer.Option(help="Number of phantom hospitals.")] = 3,
    profile: Annotated[str, typer.Option(help="Profile of the run.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    repeats: Annotated[int, typer.Option(help="Number of repeated timings.", min=1)] = 3,
) -> None:
    """Time fine-tuning with Flower and Ray and the same rounds called directly, and compare the weights.

    Both run in new processes that take turns of ten seconds; the waiting one is stopped, with everything that Ray
    started. The time is from the first evaluation to the last; start-up is reported separately. Both write each
    stage's student.
    """
    console = open_console()
    with clear_errors("nothing: timings are written at the end of a run"):
        config = make_settings(profile, method="fine-tune", seed=seed)
        with console.status("preparing phantoms"):
            named = phantom_federation(sites, config, Cache().phantoms)
            config = open_federation(config, named, Cache().prepared).config
        root = RunDirectory.new(out)
        streams = [
            [_Stream(config, root.path / f"{how}-{repeat}", how == "directly") for how in ("directly", "through")]
            for repeat in range(1, repeats + 1)
        ]
        seconds = []
        for repeat, pair in enumerate(streams, 1):
            with console.status(f"in turns, {repeat} of {repeats}"):
                seconds.append(take_turns(_run, pair, _TURN_S, sites * config.machine.stage_timeout_s))
    more = [100 * (through / directly - 1) for directly, through in seconds]
    weights = [torch.load(s.folder / _WEIGHTS, weights_only=True) for pair in streams for s in pair]
    figures = {
        "directly, s": [round(directly, 1) for directly, _ in seconds],
        "through Flower and Ray, s": [round(through, 1) for _, through in seconds],
        "more, %": [round(share, 1) for share in more],
        "median, %": round(statistics.median(more), 1),
        "start-up, s": [float((through.folder / _START_UP).read_text()) for _, through in streams],
        "weights are equal": all(torch.equal(w[name], weights[0][name]) for w in weights for name in weights[0]),
    }
    about = machine(int(config.machine.cpus_per_site))
    root.write_json("overhead.json", {**figures, "machine": about})
    table = Table(
        "figure", "value",
        title=f"Flower and Ray: fine-tune, {sites} phantom sites, {profile}, seed {seed}; {about['cpu']}, "
        f"{about['threads']} of {about['cores']} cores, torch {about['torch']}",
    )  # fmt: skip
    for name, value in figures.items():
        table.add_row(name, str(value))
    print_table(console, table)


def _run(track: Track, stream: _Stream) -> None:
    federation = open_federation(stream.config, stream.config.sites, Cache().prepared)
    run = RunDirectory.new(stream.folder)
    if stream.directly:
        _directly(track, federation, run)
    else:
        timed = _Timed(track, stages=len(stream.config.sites))
        run_simulation(federation, run, Cache().prepared, timed)
        (run.path / _START_UP).write_text(f"{timed.start_up_s:.1f}")


def _directly(track: Track, federation: Federation, run: RunDirectory) -> None:
    """Run every round and every evaluation of a fine-tuning stream by direct calls."""
    config = federation.config
    use_cpus(config.machine.cpus_per_site)
    track.start()
    student = new_student(config)
    with TemporaryDirectory() as tables:
        _evaluate(student, federation, 0, Path(tables))
        for stage, hospital in enumerate(federation.hospitals, 1):
            train_stage(student, stage, hospital, config)
            _evaluate(student, federation, stage, Path(tables))
            if stage == len(federation.hospitals):
                track.end()
            for name in ("student", f"student-of-stage-{stage}"):
                run.write_weights(name, student.state_dict())


def _evaluate(student: Student, federation: Federation, stage: int, tables: Path) -> None:
    for hospital in federation.hospitals:
        scored = hospital.scored(federation.config)
        evaluate(student, scored, federation.config, stage, tables / f"{hospital.site.name}.csv")


class _Timed(RunEvents):
    """Events that start the track before the first row of R is measured, and end it after the last one."""

    def __init__(self, track: Track, stages: int) -> None:
        self._track, self._stages = track, stages
        self._began = time.monotonic()
        self.start_up_s = 0.0

    def evaluation_started(self, stage: int, sites: object) -> None:
        if stage == 0:
            self.start_up_s = time.monotonic() - self._began
            self._track.start()

    def stage_evaluated(self, stage: int, scores: object) -> None:
        if stage == self._stages:
            self._track.end()
