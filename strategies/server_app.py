"""What runs at the coordinator: Flower's ServerApp around the stream."""

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedserdiff.config import ExperimentConfig
from fedserdiff.report.events import RunEvents
from fedserdiff.run_config import experiment_of
from strategies.arrival import run_stream
from strategies.first_stage import FirstStage
from strategies.run_directory import RunDirectory


def make_server_app(
    config: ExperimentConfig,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
    first_stage: FirstStage | None = None,
    only_first: bool = False,
) -> ServerApp:
    """Return the coordinator's app; when it ends, its results are in `run`.

    A run config, which ``flwr run`` hands over, overrides `config` and `run`. What remains is
    `run_stream`'s.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        if context.run_config:
            from_run, home = experiment_of(context.run_config)
            run_stream(grid, from_run, RunDirectory.new(home / "runs" / str(context.run_id)), events)
        else:
            run_stream(grid, config, run, events, cases, first_stage, only_first)

    return app


app = make_server_app(ExperimentConfig(), RunDirectory(Path("run")), RunEvents())
"""What ``flwr run`` finds."""
