"""Run one hospital of a real federation: its own data, its own installed app, its own guard."""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from commands.common import clear_errors, progress_bars, warn
from fedserdiff.report.console import open_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    kit: Annotated[Path, typer.Argument(help="The folder that was provisioned for this hospital, or its site.toml.")],
) -> None:
    """Prepare this hospital's cases, then answer the coordinator until Ctrl-C."""
    console = open_console()
    with clear_errors("this hospital's records and prepared cases are kept: start it again at any time"):
        # with torch and Flower, for which help and completion should not wait
        from fedserdiff.data.site_cases import passed_over_note
        from fedserdiff.deployment.kit import HospitalKit
        from sites.client_app import Premises, make_client_app
        from sites.hospital import open_hospital
        from sites.ledger import LEDGER_FILE
        from sites.node import serve

        own = HospitalKit.load(kit)
        site = own.config.sites[own.site]
        _tell_of_gpus(console, own.config.gpus_per_site)
        with progress_bars(console) as show:
            hospital = open_hospital(site, own.config, own.cache, partial(show, f"preparing cases of {site.name}"))
        console.print(f"{site.name}: {len(hospital.training)} training and {len(hospital.test)} test cases")
        if note := passed_over_note(site):
            warn(console, note)
        console.print(
            f"every answer is entered in {escape(str(own.records / site.name / LEDGER_FILE))}", soft_wrap=True
        )

        def tell(line: str) -> None:
            console.print(f"{time.strftime('%H:%M:%S')} {escape(line)}", soft_wrap=True, highlight=False)

        serve(own, make_client_app(own.config, Premises(own.cache, own.records), own.site), tell)


def _tell_of_gpus(console: Console, gpus: float) -> None:
    """See that a GPU that ``gpus`` asks for is one that torch can use, and say of one that nobody asked for.

    Raises
    ------
    ConfigError
        Where it is not.
    """
    from fedserdiff.device import settle_gpus, use_device

    settle_gpus(gpus or None, "site.toml: gpus", partial(warn, console))
    if not gpus and use_device(gpus=1).type == "cuda":
        warn(console, "this machine has a GPU, and is not to train on it: gpus = 1 in site.toml lets it")


if __name__ == "__main__":
    app()
