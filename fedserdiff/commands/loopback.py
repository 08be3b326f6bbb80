"""Rehearse a deployment on this machine: coordinator and hospitals as separate processes, with TLS and keys."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.report.console import open_console

if TYPE_CHECKING:
    pass

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings()
def main(
    chosen: Callable[[], options.Chosen],
    experiment: options.Experiment = None,
    sites: options.Sites = None,
    cache: Annotated[Path | None, options.CACHE] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New directory for all results.",
            show_default="runs/TIME-loopback-METHOD-seedSEED",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds after which the run is aborted.",
            show_default="86400, a day",
            rich_help_panel=options.RUNNING,
        ),
    ] = 24 * 3600,
) -> None:
    """Run coordinator and hospitals as separate processes, simulate the same experiment, and compare the two."""
    console = open_console()
    with clear_errors("what the processes wrote is kept"):
        layers = chosen().layers(experiment)
        # with torch, Flower and Ray, for which help and completion should not wait
        from fedserdiff.experiments.loopback import rehearse
        from fedserdiff.experiments.opened_federation import Cache

        rehearse(console, layers, experiment, sites, Cache.at(cache), out, timeout)
