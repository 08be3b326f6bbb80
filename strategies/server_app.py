"""The coordinator's Flower app: a ServerApp around the stream."""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedserdiff.deployment.kit import Coordinator
from fedserdiff.report.console import open_console
from fedserdiff.report.events import RunEvents
from fedserdiff.report.live import LiveView
from fedserdiff.run_config import experiment_of
from fedserdiff.settings.experiment import Settings
from strategies.arrival import run_stream
from strategies.first_stage import FirstStage
from strategies.run_directory import RunDirectory


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
    the hospitals are those of that folder, and the results are in its ``run``. The other parameters are as in
    `run_stream`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if federation := context.run_config.get("federation"):
            _run_federation(grid, Path(str(federation)))
        elif context.run_config:
            from_run, home = experiment_of(context.run_config)
            own = RunDirectory.new(home / "runs" / str(context.run_id))
            own.write_config(from_run)
            run_stream(grid, from_run, own, events, hospitals=own.hospitals)
        else:
            run_stream(grid, config, run, events, cases, first_stage, only_first, hospitals=run.hospitals)

    return app


def _run_federation(grid: Grid, folder: Path) -> None:
    """Run or resume the federation of real hospitals that a coordinator's folder describes."""
    coordinator = Coordinator.load(folder)
    run = RunDirectory.of_federation(coordinator.folder / "run")
    run.write_config(coordinator.config)
    console = open_console()
    with LiveView(console, run.hospitals) as view:
        run_stream(grid, coordinator.config, run, view, keys=coordinator.keys)
    console.print(f"Results in {run.path}: results.json, results.csv, student.pt, config.json", soft_wrap=True)


app = make_server_app(Settings(), RunDirectory(Path("run")), RunEvents())
"""The app that ``flwr run`` loads."""
