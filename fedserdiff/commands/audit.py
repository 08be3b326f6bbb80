"""Audit what left a hospital, who is in a federation twice, and what an attacker gets of a run."""

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
    """Audit what left a hospital, who is in a federation twice, and what an attacker gets of a run."""


@app.command()
def ledger(
    file: Annotated[Path, typer.Argument(help="A hospital's ledger.")],
    received: Annotated[
        Path | None, typer.Option(help="A run's results.json: compare with the bytes that the coordinator received.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="This hospital's name in --received.")] = None,
    run: Annotated[
        int | None, typer.Option(help="Flower's id of the one run to account for; all if not given.")
    ] = None,
    expect_head: Annotated[
        str | None, typer.Option(help="A last hash noted earlier: fail where it is not in the ledger.")
    ] = None,
    every_row: Annotated[bool, typer.Option("--all", help="Show all rows of a long ledger.")] = False,
) -> None:
    """Verify a ledger, show what left the hospital, and compare it with what the coordinator received."""
    console = open_console(highlight=False)
    with clear_errors("an audit changes nothing"):
        from fedserdiff.experiments.ledger_audit import audit_ledger

        audit_ledger(console, file, received, site, run, expect_head, every_row)


@app.command()
def overlap(
    federation: Annotated[Path, typer.Argument(help="TOML file that names the hospitals.")],
    profile: Annotated[
        str, typer.Option(help=f"Profile whose prepared cases are used, or made: {', '.join(profile_names())}.")
    ] = "laptop",
    cache: Annotated[Path | None, CACHE] = None,
) -> None:
    """Say which cases of a federation are of patients who are there already: by voxels, patient id and name mapping."""
    with clear_errors("prepared cases are kept, and an audit changes nothing else"):
        config = layers_of_file(federation, profile).settings()
        # with torch and Ray, for which a ledger's audit should not wait
        from fedserdiff.experiments.opened_federation import Cache
        from fedserdiff.experiments.overlap_audit import show_overlap

        show_overlap(open_console(highlight=False), federation, config, Cache.at(cache))


@app.command()
def privacy(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    shadows: Annotated[int, typer.Option(min=2, help="Shadow models a stage, for calibrated attacks.")] = 8,
    cache: Annotated[Path | None, CACHE] = None,
) -> None:
    """Attack what a simulated run's hospitals sent, maps and weights; write a table, a plot and a page into it."""
    with clear_errors("nothing: findings stand at the end"):
        from fedserdiff.experiments.opened_federation import Cache
        from fedserdiff.experiments.privacy_audit.audit import audit_privacy

        audit_privacy(open_console(highlight=False), run, shadows, Cache.at(cache))


@app.command()
def frontier(
    runs: Annotated[list[Path], typer.Argument(help="Directories of finished runs of the same data, audited.")],
    out: Annotated[Path, typer.Option(help="Directory for frontier.html, .csv and .json.")],
) -> None:
    """Hold runs' final Dice beside the worst attack on what their hospitals let out; write a table and a plot."""
    with clear_errors("an audit changes nothing"):
        from fedserdiff.experiments.privacy_audit.frontier import audit_frontier

        audit_frontier(open_console(highlight=False), runs, out)
