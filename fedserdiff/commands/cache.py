"""List the contents and size of the cache, verify them, and delete what is no longer used."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.commands.options import CACHE
from fedserdiff.report.console import open_console, print_table, progress_bars

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_MB = 1e6
_DAY_S = 86_400


@app.callback(invoke_without_command=True)
def main(context: typer.Context, cache: Annotated[Path | None, CACHE] = None) -> None:
    """List the contents and size of the cache, verify them, and delete what is no longer used."""
    context.obj = cache
    if context.invoked_subcommand is not None:
        return
    console = open_console(highlight=False)
    with clear_errors("nothing was changed"):
        from fedserdiff.data.store.upkeep import kinds
        from fedserdiff.experiments.opened_federation import Cache

        opened = Cache.at(cache)
        found = kinds(opened.prepared)
        table = Table()
        for column in ("modalities", "grid", "voxels", "cases", "MB", "last used", "folder"):
            table.add_column(column, justify="right" if column in ("cases", "MB") else "left", overflow="fold")
        for kind in found:
            about = kind.about
            table.add_row(
                escape(", ".join(about["modalities"])) if about else "from another version",
                " × ".join(map(str, about["grid"])) if about else "",
                f"{about['spacing_mm']:g} mm" if about else "",
                str(kind.cases), f"{kind.size / _MB:,.1f}", _ago(kind.unused_s), escape(kind.folder.name),
            )  # fmt: skip
        if found:
            print_table(console, table)
        phantoms = _size(opened.phantoms)
        total = sum(kind.size for kind in found)
        console.print(
            f"{escape(str(opened.root))}: prepared cases {total / _MB:,.1f} MB, phantom scans {phantoms / _MB:,.1f} MB",
            soft_wrap=True,
        )


@app.command()
def verify(context: typer.Context) -> None:
    """Read every scan and every prepared case again; changed or damaged ones are prepared again when needed."""
    console = open_console(highlight=False)
    with clear_errors("findings so far are recorded"):
        from fedserdiff.data.store.upkeep import verify as verify_all
        from fedserdiff.experiments.opened_federation import Cache

        with progress_bars(console) as show:
            found = verify_all(
                Cache.at(context.obj).prepared, lambda done, total: show("reading scans and cases", done, total)
            )
        for path in found.changed:
            console.print(f"{escape(str(path))}: its content has changed, but not its size and time", soft_wrap=True)
        console.print(f"{found.cases} prepared cases are damaged, {len(found.changed)} scans have changed")


@app.command()
def prune(
    context: typer.Context,
    days: Annotated[float, typer.Option(min=0, help="Delete prepared cases not used for this many days.")] = 30,
) -> None:
    """Delete prepared cases not used for long, and what earlier versions left. Scans are kept."""
    console = open_console(highlight=False)
    with clear_errors("what was not deleted is unchanged"):
        from fedserdiff.data.store.upkeep import prune as delete
        from fedserdiff.experiments.opened_federation import Cache

        gone, size = delete(Cache.at(context.obj).prepared, days)
        for kind in gone:
            console.print(f"{escape(str(kind.folder))}: {kind.cases} cases deleted", soft_wrap=True)
        console.print(f"{size / _MB:,.1f} MB freed")


def _ago(seconds: float) -> str:
    days = int(seconds / _DAY_S)
    return f"{days} day{'' if days == 1 else 's'} ago" if days else "today"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


if __name__ == "__main__":
    app()
