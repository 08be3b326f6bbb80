"""Make what a federation of real hospitals needs: certificates, keys, a folder each, and the commands that start it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from commands.common import DpClip, DpNoise, clear_errors
from fedserdiff.config import PROFILES, Site, make_config
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.deployment.provisioning import COMMANDS_FILE, commands, provision
from fedserdiff.errors import ConfigError
from fedserdiff.federation import channels_of, read_federation
from fedserdiff.methods import METHODS, get_method

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    coordinator: Annotated[str, typer.Option(help="HOST:PORT at which hospitals reach the coordinator.")],
    out: Annotated[Path, typer.Option(help="New directory for certificates, keys and folders.")],
    federation: Annotated[
        Path | None, typer.Option(help="TOML file that names the hospitals; paths are optional in it.")
    ] = None,
    sites: Annotated[int | None, typer.Option(help="Number of phantom hospitals, in place of --federation.")] = None,
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(name for name in METHODS if not METHODS[name].breaks_privacy)}.")
    ] = "ser-diff",
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seeds everything: weights, batches, noise.")] = 0,
    site_timeout: Annotated[
        float, typer.Option(help="Hours that the coordinator waits for the next hospital to come.")
    ] = 7 * 24,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds a stage.")] = None,
    lambda_kd: Annotated[
        float | None, typer.Option("--lambda", help="Weight of distillation against segmentation.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="first (as the paper) or latest.")] = None,
    participation: Annotated[
        str | None, typer.Option(help="arriving (the new site alone) or cumulative (all that have arrived).")
    ] = None,
    shared_error_maps: Annotated[
        str | None,
        typer.Option(help="null (no patient in), mri (conditioned on scans) or none; else as the method does."),
    ] = None,
    dp_noise: DpNoise = None,
    dp_clip: DpClip = None,
) -> None:
    """Make what a federation of real hospitals needs, and print the commands that start it."""
    console = Console()
    with clear_errors("nothing was written"):
        get_method(method)
        given: dict[str, Any] = {
            "site_timeout_s": 3600 * site_timeout,
            "rounds": rounds,
            "lambda_kd": lambda_kd,
            "teacher": teacher,
            "participation": participation,
            "shared_error_maps": shared_error_maps,
            "dp_noise": dp_noise,
            "dp_clip": dp_clip,
        }
        config = make_config(profile, method=method, seed=seed, **{k: v for k, v in given.items() if v is not None})
        config = config.replace(sites=_sites(federation, sites))
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
    if federation is not None:
        return read_federation(federation, paths=False)
    count = sites or 0
    if count < 1:
        raise ConfigError(f"--sites: {count} is less than 1")
    return tuple(Site(f"site-{index + 1}", phantom_hospital(index).release, "") for index in range(count))
