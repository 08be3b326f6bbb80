"""A run as ``simulate.py`` has it: a new one or one that goes on, carried out, printed and drawn."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from commands.common import as_called, warn
from commands.opened_federation import CASES, PHANTOM, Federation, open_named, reopen
from commands.options import DEFAULTS
from commands.simulation import examples, run_simulation
from fedserdiff.config import OF_ONE_MACHINE, ExperimentConfig, Site, make_config
from fedserdiff.device import settle_gpus
from fedserdiff.errors import ConfigError
from fedserdiff.federation import read_federation
from fedserdiff.methods import get_method, label
from fedserdiff.report.events import AllOf
from fedserdiff.report.live import LiveView
from fedserdiff.report.overlap import leak_warning
from fedserdiff.report.plots import plot_examples
from fedserdiff.report.tables import print_results
from fedserdiff.report.trackers import TrackedRun, open_tracker
from fedserdiff.report.volumes import VOLUMES, write_volumes
from strategies.run_directory import RunDirectory

_PICTURE = "examples.png"
_FINISHED = "finished"  # the last file that a run writes


def begin(
    console: Console,
    given: Mapping[str, Any],
    federation: Path | None,
    sites: int | None,
    out: Path | None,
    ray_address: str | None,
    skip_bad: bool,
    show_cases: bool,
) -> tuple[Federation, RunDirectory]:
    """Open the hospitals of a new run, by the settings that are `given`, and make its directory.

    Raises
    ------
    FedSerDiffError
        As `make_config`, `open_named` and `RunDirectory.new`, and where both `federation` and `sites` are given.
    """
    config = _config(console, given, ray_address)
    if federation is not None and sites is not None:
        raise ConfigError("--sites and --federation: give one of them")
    opened = open_named(console, config, federation, 3 if sites is None else sites, skip_bad, show_cases)
    folder = out or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{config.method}-seed{config.seed}"
    return opened, RunDirectory.new(folder)


def _config(console: Console, given: Mapping[str, Any], ray_address: str | None) -> ExperimentConfig:
    gpus = given.get("gpus_per_site")
    if gpus is None or ray_address is None:  # of a cluster's GPUs Ray knows
        gpus = settle_gpus(gpus, "--gpus-per-site", partial(warn, console))
    config = make_config(**{"profile": DEFAULTS.profile, **given, "gpus_per_site": gpus})
    get_method(config.method)
    if "cpus_per_site" not in given and ray_address is None:
        config = config.replace(cpus_per_site=min(config.cpus_per_site, os.cpu_count() or 1))
    return config


def take_up(
    console: Console,
    run: RunDirectory,
    given: Mapping[str, Any],
    federation: Path | None,
    sites: int | None,
    show_cases: bool,
    ray_address: str | None,
) -> Federation | None:
    """Open the hospitals of a run that goes on, or of a finished one whose cases are to be shown; else None.

    What decides its result, and whether cases are shown, is as it was. Where it runs, and what becomes of failures, is
    as `given`, and else as it was, as far as this machine can. `federation` says where the scans of its sites are now.

    Raises
    ------
    FedSerDiffError
        As `RunDirectory.read_origin`, `read_federation` and `reopen`, and where a setting is `given` that would make it
        another run.
    """
    origin = run.read_origin()
    config = origin.config
    differing = [
        f"{name} was {getattr(config, name)!r}, {value!r} is given"
        for name, value in given.items()
        if name not in OF_ONE_MACHINE and getattr(config, name) != value
    ]
    if sites is not None and sites != len(config.sites):
        differing.append(f"sites were {len(config.sites)}, {sites} is given")
    if differing:
        raise ConfigError(f"{run.path}: belongs to another run: {'; '.join(differing)}")
    show_cases = show_cases or origin.show_cases
    if _finished(run) and (not show_cases or (run.path / _PICTURE).is_file()):
        return None
    here = {} if ray_address is not None else _on_this_machine(config)
    config = config.replace(**{**here, **{name: value for name, value in given.items() if name in OF_ONE_MACHINE}})
    if ray_address is None:
        settle_gpus(config.gpus_per_site, "--gpus-per-site", partial(warn, console))
    if federation is not None:
        config = config.replace(sites=_moved(config.sites, federation))
    opened = replace(reopen(console, run, config), show_cases=show_cases)
    if show_cases and not origin.show_cases:
        run.write_config(origin.config, {**origin.data, "show_cases": True})
    return opened


def _on_this_machine(config: ExperimentConfig) -> dict[str, float]:
    """Return a config's CPUs and GPUs for a site at work, no more than this machine has."""
    return {
        "cpus_per_site": min(config.cpus_per_site, os.cpu_count() or 1),
        "gpus_per_site": min(config.gpus_per_site, float(torch.cuda.is_available())),
    }


def _moved(sites: Sequence[Site], federation: Path) -> tuple[Site, ...]:
    """Return a run's sites with the paths that a federation file has for them, by name.

    Raises
    ------
    ConfigError
        As `read_federation`, and where the file lacks one of them, or has it with another release.
    """
    there = {site.name: site for site in read_federation(federation)}
    for site in sites:
        if site.name not in there:
            raise ConfigError(f"{federation}: has no site {site.name}, which the run has")
        if there[site.name].release != site.release:
            raise ConfigError(
                f"{federation}: {site.name}: release: {there[site.name].release} is given, {site.release} was the run's"
            )
    return tuple(replace(site, path=there[site.name].path) for site in sites)


def carry_out(
    console: Console, opened: Federation, run: RunDirectory, ray_address: str | None, tracker: str | None
) -> None:
    """Run and print the tables, unless that is done; draw cases, where they are to be shown."""
    config = opened.config
    files = ["results.json", "results.csv", "student.pt", "config.json"]
    if _finished(run):
        results = json.loads((run.path / "results.json").read_bytes())
    else:
        tracked = TrackedRun(open_tracker(tracker, run.path), config, opened.data)
        with LiveView(console, run.hospitals) as view, tracked:
            results = run_simulation(opened, run, CASES, AllOf(view, tracked), ray_address)
            tracked.finished(results)
        print_results(console, results, opened.data)
    if opened.shows_cases:
        _draw(opened, run, results)
        files += [_PICTURE, VOLUMES]
    run.write_file(_FINISHED, b"")
    console.print(f"Results in {escape(str(run.path))}: {', '.join(files)}", soft_wrap=True)
    if not opened.shows_cases:
        again = f"{as_called('simulate')} --resume {escape(str(run.path))} --show-cases"
        console.print(f"No file shows a case of your data. To have pictures:\n  {again}", soft_wrap=True)


def _finished(run: RunDirectory) -> bool:
    return (run.path / _FINISHED).is_file()


def _draw(opened: Federation, run: RunDirectory, results: Mapping[str, Any]) -> None:
    """Write the pictures of a run's example cases."""
    config = opened.config
    about = f"{label(config.method)}, seed {config.seed}, {opened.data} data"
    warning = leak_warning(results["overlap"])
    shown = examples(opened, run)
    last = len(results["stages"]) - 1
    facts = f"{about}, profile {config.profile}, final student after stage {last} of {last}"
    write_volumes({label(config.method): shown}, facts, opened.data == PHANTOM, warning, run.path / VOLUMES)
    title = f"{about}, final student; Dice of the whole volume, mean of regions"
    plot_examples(shown, title if warning is None else f"{title}\n{warning}", run.path / _PICTURE)
