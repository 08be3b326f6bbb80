"""The coordinator's Flower app: a ServerApp around the stream."""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.markup import escape

from fedserdiff.deployment.kit import Coordinator
from fedserdiff.errors import ConfigError
from fedserdiff.report.console import open_console
from fedserdiff.report.events import RunEvents
from fedserdiff.report.live import LiveView
from fedserdiff.run_config import experiment_of
from fedserdiff.settings.experiment import Settings
from strategies.arrival import run_stream
from strategies.first_stage import FirstStage
from strategies.run_directory import RunDirectory
from strategies.statistics import STATISTICS, ask_for_statistics, write_statistics


def make_server_app(
    config: Settings,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
    first_stage: FirstStage | None = None,
    only_first: bool = False,
) -> ServerApp:
    """Return the coordinator's app; when it ends, its results are in `run`.

    A run config from ``flwr run`` overrides `config` and `run`. If it names a coordinator's folder as ``federation``,
    the hospitals are those of that folder, and the results are in its ``run``. If ``ask`` is ``statistics``, the app
    does not train: it asks the hospitals for statistics and writes these to ``statistics-RUN_ID`` in that folder. The
    other parameters are as in `run_stream`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if federation := context.run_config.get("federation"):
            coordinator = Coordinator.load(Path(str(federation)))
            match context.run_config.get("ask", ""):
                case "":
                    _run_federation(grid, coordinator)
                case "statistics":
                    _ask_federation(grid, coordinator, f"{STATISTICS}-{context.run_id}")
                case other:
                    raise ConfigError(f"run config: ask: {other!r} is not statistics: leave it out to train")
        elif context.run_config:
            from_run, home = experiment_of(context.run_config)
            own = RunDirectory.new(home / "runs" / str(context.run_id))
            own.write_config(from_run)
            run_stream(grid, from_run, own, events, hospitals=own.hospitals)
        else:
            run_stream(grid, config, run, events, cases, first_stage, only_first, hospitals=run.hospitals)

    return app


def _ask_federation(grid: Grid, coordinator: Coordinator, name: str) -> None:
    """Ask the hospitals of a coordinator's folder for statistics before training, and write the answers."""
    run = RunDirectory.new(coordinator.folder / name)
    console = open_console()
    with LiveView(console, run.hospitals) as view:
        answers = ask_for_statistics(grid, coordinator.config, view, coordinator.keys)
    summary = write_statistics(run, answers, coordinator.config, "deployed")
    for sentence in summary["answer"]:
        console.print(escape(sentence), soft_wrap=True, highlight=False)
    file = run.path / f"{STATISTICS}.json"  # Flower's bundle of the app holds no template of a page
    console.print(f"Statistics: {file}; for a page of them: fedserdiff statistics {file}", soft_wrap=True)


def _run_federation(grid: Grid, coordinator: Coordinator) -> None:
    """Run or resume the federation of real hospitals that a coordinator's folder describes."""
    run = RunDirectory.of_federation(coordinator.folder / "run")
    run.write_config(coordinator.config)
    console = open_console()
    with LiveView(console, run.hospitals) as view:
        run_stream(grid, coordinator.config, run, view, keys=coordinator.keys)
    console.print(f"Results in {run.path}: results.json, results.csv, student.pt, config.json", soft_wrap=True)


app = make_server_app(Settings(), RunDirectory(Path("run")), RunEvents())
"""The app that ``flwr run`` loads."""
