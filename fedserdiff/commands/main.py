"""The command ``fedserdiff``. Each subcommand's module is imported only when it is called."""

import ast
import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from fedserdiff.report.console import PROGRAM

COMMANDS = (
    "statistics",
    "simulate",
    "compare",
    "settings",
    "segment",
    "score",
    "export",
    "audit",
    "provision",
    "hospital",
    "loopback",
    "federation",
    "phantoms",
    "cache",
)
"""Modules of this package, in the order of the help text. Each has an `app`; its docstring's first line is its help."""


def load(name: str) -> click.Command:
    """Import the module of one of `COMMANDS` and return its command."""
    return typer.main.get_command(importlib.import_module(f"fedserdiff.commands.{name}").app)


class _OnDemand(TyperGroup):
    """A group that reads its commands' help from their source: importing torch and Ray would take seconds."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in COMMANDS:
            module = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
            self.add_command(click.Command(name, help=(ast.get_docstring(module) or "").partition("\n")[0]))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


app = typer.Typer(
    name=PROGRAM,
    cls=_OnDemand,
    no_args_is_help=True,
    suggest_commands=False,  # click already does
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train one segmentation model on hospitals that join one after another, without forgetting the earlier ones."""
