"""Compare hospitals' patients and scans before training: counts, volumes, intensities, voxel sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.experiment_file import hospitals_of, phantoms_of
from fedserdiff.report.console import open_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings("stream", "allow_overlap", "retries", "cpus_per_site", method=False, seed=True)
def main(
    chosen: Callable[[], options.Chosen],
    experiment: options.Experiment = None,
    sites: options.Sites = None,
    skip_bad: Annotated[bool, options.SKIP_BAD] = False,
    cache: Annotated[Path | None, options.CACHE] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New directory for statistics.json, statistics.csv and statistics.html.",
            show_default="runs/TIME-statistics-METHOD-seedSEED",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
) -> None:
    """Ask each hospital for statistics of its training patients, no cell with fewer than 5, and write a page.

    Given a statistics.json that a deployed federation's coordinator wrote, write the page of that file.
    """
    console = open_console()
    with clear_errors("no statistics were written"):
        # with torch, Flower and Ray, for which help and completion should not wait
        from fedserdiff.experiments.opened_federation import Cache, open_named
        from fedserdiff.experiments.simulated_run import new_folder, on_what_there_is
        from fedserdiff.experiments.statistics import is_statistics, page_of, tell_statistics

        if experiment is not None and is_statistics(experiment):
            console.print(f"Page: {escape(str(page_of(experiment)))}", soft_wrap=True)
            return
        hospitals = hospitals_of(experiment, sites)
        layers = chosen().layers(experiment)
        config = on_what_there_is(console, layers.settings(), layers).replace({"machine.gpus_per_site": 0})
        folder, phantoms = out or new_folder(config, "statistics-"), phantoms_of(experiment) if sites is None else sites
        kept = Cache.at(cache)
        opened = open_named(console, config, hospitals, phantoms, kept, skip_bad, beside=folder.parent)
        page = tell_statistics(console, opened, folder, kept)
        console.print(f"Page: {escape(str(page))}", soft_wrap=True)


if __name__ == "__main__":
    app()
