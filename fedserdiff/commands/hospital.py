"""Run one hospital of a real federation, with its own data, its own installed app and its own limits on egress."""

from pathlib import Path
from typing import Annotated

import typer

from fedserdiff.commands.common import clear_errors
from fedserdiff.report.console import open_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    kit: Annotated[Path, typer.Argument(help="The folder provisioned for this hospital, or its site.toml.")],
) -> None:
    """Prepare this hospital's cases, then answer the coordinator until Ctrl-C."""
    console = open_console()
    with clear_errors("this hospital's records and prepared cases are kept; you can start it again at any time"):
        # with torch and Flower, for which help and completion should not wait
        from fedserdiff.experiments.served_hospital import serve_hospital

        serve_hospital(console, kit)


if __name__ == "__main__":
    app()
