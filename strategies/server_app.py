"""What runs at the coordinator: Flower's ServerApp around the stream."""

from collections.abc import Mapping

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedserdiff.config import ExperimentConfig
from fedserdiff.report.events import RunEvents
from strategies.arrival import run_stream
from strategies.run_directory import RunDirectory


def make_server_app(
    config: ExperimentConfig,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
) -> ServerApp:
    """Return the coordinator's app; its results are in `run` when it ends. Parameters as `run_stream`'s."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_stream(grid, config, run, events, cases)

    return app
