"""Create certificates, keys, a folder for each hospital and the commands that start a real federation."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import hospitals_of
from fedserdiff.report.console import open_console
from fedserdiff.settings.experiment import Settings, Site

_A_WEEK = 7 * 24.0  # hours: people start hospitals by hand, and have week-ends

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings(
    "stream",
    "rounds",
    "batch_size",
    "arrival",
    "participation",
    "lambda_kd",
    "teacher",
    "shared_error_maps",
    "dp_noise",
    "dp_clip",
)
def main(
    chosen: Callable[[], options.Chosen],
    coordinator: Annotated[
        str, typer.Option(help="Address under which hospitals reach the coordinator.", metavar="HOST:PORT")
    ],
    out: Annotated[Path, typer.Option(help="New directory for certificates, keys and hospital folders.")],
    experiment: options.Experiment = None,
    sites: Annotated[
        int | None, typer.Option(help="Number of phantom hospitals, for a rehearsal.", rich_help_panel=options.DATA)
    ] = None,
    site_timeout: Annotated[
        float | None,
        typer.Option(
            help="Hours that the coordinator waits for the next hospital to connect.",
            show_default="168, a week",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
) -> None:
    """Create what a federation of real hospitals needs, and print the commands that start it."""
    console = open_console()
    with clear_errors("nothing was written"):
        layers = chosen().layers(experiment)
        if site_timeout is not None or not layers.sets("machine.site_timeout_s", by_profile=False):
            hours = _A_WEEK if site_timeout is None else site_timeout
            layers = layers.on_top("--site-timeout", {"machine.site_timeout_s": 3600 * hours})
        options.tell_idle(console, layers)
        config = layers.settings(sites=_sites(hospitals_of(experiment), sites, layers.settings()))
        # with torch and cryptography, for which help and completion should not wait
        from fedserdiff.deployment.provisioning import COMMANDS_FILE, commands, provision

        made = provision(out, config, coordinator, {})
        told = commands(made)
    console.print(told, markup=False, highlight=False, soft_wrap=True)
    kits = made.folder.parent
    for line in (
        f"The coordinator's folder: {made.folder}",
        f"One folder for each hospital: {kits / 'sites'}",
        f"These commands: {kits / COMMANDS_FILE}",
        f"Secret: node.key in each hospital's folder, {made.folder / 'server.key'}, and, most of all, "
        f"{kits / 'authority' / 'ca.key'}: with it anyone can pose as the coordinator. Keep it offline; it is only "
        "needed for a new certificate.",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sites(federation: Path | None, sites: int | None, config: Settings) -> tuple[Site, ...]:
    """Return the hospitals of a federation file, or that many phantom hospitals; their data need not exist."""
    if (federation is None) == (sites is None):
        raise ConfigError("hospitals: give either a federation file or --sites for phantom hospitals")
    from fedserdiff.data.phantom.site import phantom_site
    from fedserdiff.federation import read_federation

    if federation is not None:
        return read_federation(federation, paths=False)
    count = sites or 0
    if count < 1:
        raise ConfigError(f"--sites: {count} is less than 1")
    return tuple(phantom_site(index, config)[0] for index in range(count))
