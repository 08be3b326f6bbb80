"""Make what a federation of real hospitals needs: certificates, keys, a folder each, and the commands that start it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from commands import options
from commands.common import clear_errors, warn
from fedserdiff.config import Site, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.methods import get_method
from fedserdiff.report.console import open_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    coordinator: Annotated[
        str, typer.Option(help="Address at which hospitals reach the coordinator.", metavar="HOST:PORT")
    ],
    out: Annotated[Path, typer.Option(help="New directory for certificates, keys and folders.")],
    federation: Annotated[
        Path | None,
        typer.Option(
            help="TOML file that names the hospitals; paths are optional in it: this or --sites.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    sites: Annotated[
        int | None, typer.Option(help="Number of phantom hospitals, to rehearse.", rich_help_panel=options.DATA)
    ] = None,
    method: Annotated[str, options.DEPLOYABLE_METHOD] = options.DEFAULTS.method,
    profile: Annotated[str, options.PROFILE] = options.DEFAULTS.profile,
    seed: Annotated[
        int, typer.Option(help="Seeds everything: weights, batches, noise.", rich_help_panel=options.METHOD)
    ] = options.DEFAULTS.seed,
    rounds: options.Rounds = None,
    batch_size: options.BatchSize = None,
    lambda_kd: options.Lambda = None,
    teacher: options.Teacher = None,
    participation: options.Participation = None,
    shared_error_maps: options.SharedErrorMaps = None,
    dp_noise: options.DpNoise = None,
    dp_clip: options.DpClip = None,
    site_timeout: Annotated[
        float,
        typer.Option(
            help="Hours that the coordinator waits for the next hospital to come.",
            show_default="168, a week",
            rich_help_panel=options.RUNNING,
        ),
    ] = 7 * 24,
) -> None:
    """Make what a federation of real hospitals needs, and print the commands that start it."""
    console = open_console()
    with clear_errors("nothing was written"):
        get_method(method)
        given: dict[str, Any] = {
            "site_timeout_s": 3600 * site_timeout,
            "rounds": rounds,
            "batch_size": batch_size,
            "lambda_kd": lambda_kd,
            "teacher": teacher,
            "participation": participation,
            "shared_error_maps": shared_error_maps,
            "dp_noise": dp_noise,
            "dp_clip": dp_clip,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if note := options.idle_note(given, method):
            warn(console, note)
        config = make_config(profile, method=method, seed=seed, **given)
        config = config.replace(sites=_sites(federation, sites))
        # with torch and cryptography, for which help and completion should not wait
        from fedserdiff.deployment.provisioning import COMMANDS_FILE, commands, provision
        from fedserdiff.federation import channels_of

        channels = {} if federation is None else channels_of(federation)
        made = provision(out, config.replace(**channels), coordinator, {})
        told = commands(made)
    console.print(told, markup=False, highlight=False, soft_wrap=True)
    kits = made.folder.parent
    for line in (
        f"The coordinator's folder: {made.folder}",
        f"One folder for each hospital: {kits / 'sites'}",
        f"These commands: {kits / COMMANDS_FILE}",
        f"Secret: node.key in each hospital's folder, {made.folder / 'server.key'}, and, most of all, "
        f"{kits / 'authority' / 'ca.key'}: with it anyone can pass for the coordinator. Keep it offline; only a new "
        "certificate needs it.",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _sites(federation: Path | None, sites: int | None) -> tuple[Site, ...]:
    """Name the hospitals of a federation file, or as many phantom ones; their data need not exist."""
    if (federation is None) == (sites is None):
        raise ConfigError("--sites and --federation: give one of them")
    from fedserdiff.data.phantom.hospitals import phantom_hospital
    from fedserdiff.federation import read_federation

    if federation is not None:
        return read_federation(federation, paths=False)
    count = sites or 0
    if count < 1:
        raise ConfigError(f"--sites: {count} is less than 1")
    return tuple(Site(f"site-{index + 1}", phantom_hospital(index).release, "") for index in range(count))
