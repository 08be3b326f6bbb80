"""Run ``scripts/simulate.py`` in this process and kill it, or a worker, at a named point.

Run with a point's name (or "" for none) and simulate.py's arguments, it does that. Run by itself, it tries every one of
them against an undisturbed run, and prints the table of docs/notebook/reliability.md.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import preloaded
import typer

ROOT = Path(__file__).parents[2]
NOT_COMPARED = ("seconds", "interruptions")
TIMEOUT_S = 900
ONE_CPU = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
"""For runs of one worker: every other one that Ray would start costs a whole import of torch."""

Condition = Callable[..., bool]


@dataclass(frozen=True)
class Point:
    """A place in the coordinator's code: `function` (``module:Class.name``) before or after which the plug is pulled.

    `when` is asked with the function's arguments; `damage` is done first.
    """

    about: str
    function: str
    after: bool = False
    when: Condition = lambda *args, **options: True
    damage: Callable[..., None] = lambda *args, **options: None


def at(stage: int, server_round: int) -> Condition:
    """In this round of this stage; the function is `StageRunner`'s."""
    return lambda runner, *args, **options: (runner.stream.stage, runner.server_round) == (stage, server_round)


def runs(stage: int, server_round: int) -> Condition:
    """As `run_round` is asked for this round of this stage."""
    return lambda runner, grid, arrays, asked: (runner.stream.stage, asked) == (stage, server_round)


def saves(stage: int, rounds: int, scored: bool = False) -> Condition:
    """As the state of this position is written; the function is `save_checkpoint`."""
    return lambda run, position, *args, **options: (
        (position.stage, position.rounds, position.scored) == (stage, rounds, scored)
    )


def writes(name: str, stage: int, rounds: int, scored: bool = False) -> Condition:
    """As a file of this name is written after or with the state of this position; for `RunDirectory.write_file`."""
    return lambda run, written, *args, **options: written == name and _saved == [(stage, rounds, scored)]


def follows(stage: int, rounds: int) -> Condition:
    """After the state of this position was written, and before the next is."""
    return lambda *args, **options: _saved == [(stage, rounds, False)]


def half_a_file(run: Any, name: str, content: bytes, *args: Any, **options: Any) -> None:
    (run.path / f"{name}.partial").write_bytes(content[: len(content) // 2])


def between_two_names(run: Any, name: str, content: bytes, *args: Any, keep: str = "", **options: Any) -> None:
    (run.path / f"{name}.partial").write_bytes(content)
    (run.path / name).replace(run.path / keep)


RUNNER, WRITE = "strategies.stage_runner:StageRunner", "strategies.run_directory:RunDirectory.write_file"
STREAM = "strategies.arrival"

POINTS: dict[str, Point] = {
    "before-ray": Point("config written, Flower and Ray not started", "fedserdiff.launch:_start_ray"),
    "untrained": Point(
        "the untrained student's scores have come, none is written", "strategies.scoring:Scoring._score", after=True
    ),
    "round-out": Point(
        "stage 1, round 1: messages about to leave", f"{RUNNER}.train_messages", after=True, when=at(1, 1)
    ),
    "before-aggregation": Point(
        "stage 1, round 2: students have come, before aggregation", f"{RUNNER}.aggregate", when=at(1, 2)
    ),
    "scoring": Point(
        "stage 1: trained, scores have come, none is written",
        "strategies.scoring:Scoring._score",
        after=True,
        when=lambda scoring, row, *args: row == 1,
    ),
    "consolidation": Point(
        "stage 1: a hospital has handed over its error maps, nothing is written",
        "strategies.ser_diff:SerDiff.keep",
        after=True,
    ),
    "stage-weights": Point(
        "stage 1: student.pt is written, teacher.pt is not", WRITE, when=writes("teacher.pt", 1, 2, True)
    ),
    "during-aggregation": Point(
        "stage 2, round 1: students are summed, the sum is not taken over",
        "strategies.aggregation:Aggregator.aggregate",
        after=True,
        when=follows(2, 0),
    ),
    "after-aggregation": Point(
        "stage 2, round 1: aggregated, state not written", f"{RUNNER}.run_round", after=True, when=runs(2, 1)
    ),
    "half-checkpoint": Point(
        "stage 2, round 1: half of the checkpoint is on disk",
        WRITE,
        when=writes("checkpoint", 2, 1),
        damage=half_a_file,
    ),
    "between-names": Point(
        "stage 2, round 2: the old checkpoint has given way, the new one has not its name yet",
        WRITE,
        when=writes("checkpoint", 2, 2),
        damage=between_two_names,
    ),
    "before-results": Point(
        "stage 2: state written, results.json is not", f"{STREAM}:save_checkpoint", after=True, when=saves(2, 2, True)
    ),
    "half-results": Point(
        "stage 3, round 1: half of results.json is on disk",
        WRITE,
        when=writes("results.json", 3, 1),
        damage=half_a_file,
    ),
    "stage-3": Point(
        "stage 3, round 2: aggregated, state not written", f"{RUNNER}.run_round", after=True, when=runs(3, 2)
    ),
    "last-scores": Point(
        "stage 3: scored and written, the stage not closed", f"{STREAM}:save_checkpoint", after=True,
        when=saves(3, 2, True),
    ),
    "stream-ended": Point("the stream has ended, Ray is about to stop", "ray:shutdown"),
    "picture": Point("all results written, examples.png is not", "fedserdiff.report.plots:_finish"),
}  # fmt: skip
"""In the order in which a run comes by them."""

WORKER_POINTS: dict[str, str] = {
    "worker-train": "train",
    "worker-consolidate": "train.consolidate",
    "worker-evaluate": "evaluate",
}
"""Points at which the worker's process, a hospital's, is killed as it takes up a message of stage 2 or of its end."""


_saved: list[tuple[int, int, bool]] = []
"""The position whose state was written last, or is being written; a run that goes on writes the one it found."""


def follow() -> None:
    """Keep `_saved`."""
    from strategies import arrival

    save = arrival.save_checkpoint

    def followed(run: Any, position: Any, *args: Any) -> None:
        _saved[:] = [(position.stage, position.rounds, position.scored)]
        save(run, position, *args)

    arrival.save_checkpoint = followed


def arm(point: Point) -> None:
    """Have this process killed at a point."""
    module, _, path = point.function.partition(":")
    __import__(module)
    owner: Any = sys.modules[module]
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, name)

    @wraps(function)
    def armed(*args: Any, **options: Any) -> Any:
        hit = point.when(*args, **options)
        result = function(*args, **options) if point.after or not hit else None
        if hit:
            point.damage(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, armed)


def arm_worker(message_type: str, flag: Path) -> None:
    """Have the first worker that takes up such a message of stage 1 killed, once: `flag` is left behind."""
    import fedserdiff.launch as launch

    mortal = launch._mortal

    def armed(client_app: Any, timeout_s: float) -> Any:
        inner, name, once = mortal(client_app, timeout_s), message_type, str(flag)

        def call(message: Any, context: Any) -> Any:
            import os
            import signal

            stage = next(iter(message.content.config_records.values())).get("stage")
            if message.metadata.message_type == name and stage == 1 and not os.path.exists(once):
                open(once, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(message, context)

        return call

    launch._mortal = armed


def pull_the_plug(name: str, arguments: Sequence[str]) -> None:
    """Run simulate.py in this process, to the point; several workers' points are joined by ``+``."""
    out = arguments[arguments.index("--out") + 1] if "--out" in arguments else ""
    for one in name.split("+"):
        if one in WORKER_POINTS:
            arm_worker(WORKER_POINTS[one], Path(f"{out}.{one}"))
        else:
            follow()
            arm(POINTS[one])
    simulate(arguments)


def simulate(arguments: Sequence[str]) -> None:
    """Run simulate.py in this process, which ends with it."""
    from fedserdiff.commands import simulate as command

    sys.argv = ["simulate.py", *arguments]
    command.app()


def run(*arguments: str, cwd: Path, point: str = "") -> subprocess.CompletedProcess[str]:
    """Run simulate.py in a process of its own, killed at a point if one is named."""
    return preloaded.run(*arguments, cwd=cwd, env={**ONE_CPU, "COLUMNS": "200"}, timeout_s=TIMEOUT_S, point=point)


def results_of(folder: Path) -> dict[str, Any]:
    """Return what has to be the same of a run that was disturbed and of one that was not."""
    results = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in NOT_COMPARED}


def same_files(one: Path, other: Path) -> bool:
    """Say whether two runs ended with the same weights and tables, to the last byte."""
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("student.pt", "teacher.pt", "results.csv")
    )


def main() -> None:
    """Try every point by itself, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        size = ("--profile", "smoke", "--sites", "3")
        whole = run(*size, "--out", "whole", cwd=cwd)
        assert whole.returncode == 0, whole.stderr
        typer.echo("| point | killed | went on after | result |\n|---|---|---|---|")
        for name in (*POINTS, *WORKER_POINTS):
            retries = ("--retries", "0") if name in WORKER_POINTS else ()
            killed = run(*size, *retries, "--out", name, cwd=cwd, point=name)
            resumed = run("--resume", name, cwd=cwd)
            assert resumed.returncode == 0, killed.stdout + killed.stderr + resumed.stdout + resumed.stderr
            went_on = [line for line in resumed.stdout.splitlines() if line.startswith("resuming")]
            same = results_of(cwd / name) == results_of(cwd / "whole") and same_files(cwd / name, cwd / "whole")
            about = (
                POINTS[name].about if name in POINTS else f"a worker at a `{WORKER_POINTS[name]}` message of stage 1"
            )
            who = "coordinator" if name in POINTS else "worker"
            position = went_on[0].removeprefix("resuming after ") if went_on else "the beginning"
            typer.echo(f"| {about} | {who}, {killed.returncode} | {position} | {'same' if same else 'OTHER'} |")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1]:
        pull_the_plug(sys.argv[1], sys.argv[2:])
    else:
        simulate(sys.argv[2:])
