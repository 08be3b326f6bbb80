"""Audit what left a hospital, which patients a federation has twice, and what an attacker learns from a run."""

from pathlib import Path
from typing import Annotated

import typer

from fedserdiff.commands.common import clear_errors
from fedserdiff.commands.options import CACHE
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.report.console import open_console
from fedserdiff.settings.sources import profile_names

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Audit what left a hospital, which patients a federation has twice, and what an attacker learns from a run."""


@app.command()
def ledger(
    file: Annotated[Path, typer.Argument(help="The ledger file of a hospital.")],
    received: Annotated[
        Path | None,
        typer.Option(help="A run's results.json; compare the ledger with the bytes that the coordinator received."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="The hospital's name in the file of --received.")] = None,
    run: Annotated[int | None, typer.Option(help="Flower's id of the run to account for; default: all runs.")] = None,
    expect_head: Annotated[
        str | None, typer.Option(help="A last hash that you noted earlier; fail if it is not in the ledger.")
    ] = None,
    every_row: Annotated[bool, typer.Option("--all", help="Show every row, even of a long ledger.")] = False,
) -> None:
    """Verify a hospital's ledger, show what left the hospital, and compare it with what the coordinator received."""
    console = open_console(highlight=False)
    with clear_errors("an audit changes nothing"):
        from fedserdiff.experiments.ledger_audit import audit_ledger

        audit_ledger(console, file, received, site, run, expect_head, every_row)


@app.command()
def overlap(
    federation: Annotated[Path, typer.Argument(help="TOML file that lists the hospitals.")],
    profile: Annotated[
        str,
        typer.Option(
            help=f"Profile whose prepared cases to use, or to prepare if missing: {', '.join(profile_names())}."
        ),
    ] = "laptop",
    cache: Annotated[Path | None, CACHE] = None,
) -> None:
    """List cases of patients who are in the federation already, found by voxels, patient id and name mapping."""
    with clear_errors("prepared cases are kept; the audit changed nothing else"):
        config = layers_of_file(federation, profile).settings()
        # with torch and Ray, for which a ledger's audit should not wait
        from fedserdiff.experiments.opened_federation import Cache
        from fedserdiff.experiments.overlap_audit import show_overlap

        show_overlap(open_console(highlight=False), federation, config, Cache.at(cache))


@app.command()
def privacy(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    shadows: Annotated[
        int, typer.Option(min=2, help="Number of shadow models for each stage, for calibrated attacks.")
    ] = 8,
    cache: Annotated[Path | None, CACHE] = None,
) -> None:
    """Attack the maps and weights that a simulated run's hospitals sent; write a table, a plot and a page into it."""
    with clear_errors("nothing was written: findings are written at the end"):
        from fedserdiff.experiments.opened_federation import Cache
        from fedserdiff.experiments.privacy_audit.audit import audit_privacy

        audit_privacy(open_console(highlight=False), run, shadows, Cache.at(cache))


@app.command()
def frontier(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished and audited runs on the same data.")],
    out: Annotated[Path, typer.Option(help="Directory for frontier.html, .csv and .json.")],
) -> None:
    """Compare runs' final Dice with the strongest attack on what their hospitals sent; write a table and a plot."""
    with clear_errors("an audit changes nothing"):
        from fedserdiff.experiments.privacy_audit.frontier import audit_frontier

        audit_frontier(open_console(highlight=False), runs, out)
