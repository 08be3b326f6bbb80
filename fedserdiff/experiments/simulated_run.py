"""The work of ``fedserdiff simulate``: start or resume a run, carry it out, print its tables and draw cases."""

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

from fedserdiff.compilation import check_compiler
from fedserdiff.device import room_on, settle_gpus, use_device
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import PHANTOM, hospitals_of, phantoms_of
from fedserdiff.experiments.opened_federation import RUNS, Cache, Federation, open_named, reopen
from fedserdiff.experiments.simulation import examples, run_simulation
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.federation import read_federation
from fedserdiff.gpu_memory import what_to_lower
from fedserdiff.methods import get_method, half_of, label
from fedserdiff.networks.coarse import check_coarse
from fedserdiff.report.console import warn
from fedserdiff.report.events import AllOf
from fedserdiff.report.live import LiveView
from fedserdiff.report.overlap import leak_warning
from fedserdiff.report.plots import plot_examples
from fedserdiff.report.tables import print_results
from fedserdiff.report.trackers import TrackedRun, open_tracker
from fedserdiff.report.volumes import VOLUMES, write_volumes
from fedserdiff.settings.experiment import Settings, Site, settings_of
from fedserdiff.settings.sources import Layers
from strategies.run_directory import RunDirectory

_PICTURE = "examples.png"
_FINISHED = "finished"  # the last file written by a run


def begin(
    console: Console,
    layers: Layers,
    experiment: Path | None,
    sites: int | None,
    cache: Cache,
    out: Path | None,
    ray_address: str | None,
    skip_bad: bool,
    show_cases: bool,
) -> tuple[Federation, RunDirectory]:
    """Open the hospitals of a new run with layered settings, and create its directory.

    Raises
    ------
    FedSerDiffError
        As in `on_what_there_is`, `open_named` and `RunDirectory.new`, and if a file names the hospitals and `sites` is
        given as well.
    """
    hospitals = hospitals_of(experiment, sites)
    config = on_what_there_is(console, layers.settings(), layers, ray_address is not None)
    folder, phantoms = out or new_folder(config), phantoms_of(experiment) if sites is None else sites
    opened = open_named(console, config, hospitals, phantoms, cache, skip_bad, show_cases, folder.parent)
    return opened, RunDirectory.new(folder)


def new_folder(config: Settings, what: str = "") -> Path:
    """Return a default run directory named by time, `what` it is, method and seed."""
    method = config.method.name.replace(":", ".")
    return RUNS / f"{datetime.now():%Y%m%d-%H%M%S}-{what}{method}-seed{config.seed}"


def on_what_there_is(console: Console, settings: Settings, layers: Layers, cluster: bool = False) -> Settings:
    """Return settings adapted to this machine: no more CPUs for a site than there are, and a GPU by default if there is
    one.

    `cluster` is for a Ray cluster, whose resources only Ray knows. A coarse network that cannot be used and a method
    whose halves cannot be imported are rejected here, before anything is prepared. Raise as `check_coarse`, `half_of`,
    `settle_gpus` and `check_compiler` do.
    """
    check_coarse(settings)
    method = get_method(settings.method.name)
    for part in method.parts:
        for half in (part.strategy, part.objective):
            half_of(part, half)
    gpus = settings.machine.gpus_per_site if layers.sets("machine.gpus_per_site") else None
    if gpus is None or not cluster:
        gpus = settle_gpus(gpus, "--gpus-per-site", partial(warn, console))
    cpus = settings.machine.cpus_per_site
    if not layers.sets("machine.cpus_per_site", by_profile=False) and not cluster:
        cpus = min(cpus, os.cpu_count() or 1)
    settings = settings.replace({"machine.gpus_per_site": gpus, "machine.cpus_per_site": cpus})
    if not cluster:
        check_compiler(settings.machine)
    return settings


def interrupted(path: Path) -> RunDirectory:
    """Open the directory of a run to resume; raise as `RunDirectory.of_interrupted` does."""
    return RunDirectory.of_interrupted(path)


def take_up(
    console: Console,
    run: RunDirectory,
    given: Mapping[str, Any],
    federation: Path | None,
    sites: int | None,
    cache: Cache,
    show_cases: bool,
    ray_address: str | None,
) -> Federation | None:
    """Open the hospitals of a run to resume, or of a finished one whose cases should be shown; otherwise return None.

    Settings that decide the result, and whether cases are shown, stay the same. Settings of the machine and of failure
    handling are as `given`, otherwise as before, as far as this machine allows. `federation` gives the current paths of
    the sites' scans.

    Raises
    ------
    FedSerDiffError
        As in `RunDirectory.read_origin`, `read_federation` and `reopen`, and if a `given` setting would make it another
        run.
    """
    origin = run.read_origin()
    config = origin.config
    of_one_machine = {one.name for one in settings_of() if one.one_machine}
    names = {"method": "method.name"}
    differing = [
        f"{name} was {was!r}, but {value!r} is given"
        for name, value in given.items()
        if name not in of_one_machine
        and (was := config.value(names.get(name, name))) != (tuple(value) if isinstance(value, list) else value)
    ]
    if sites is not None and sites != len(config.sites):
        differing.append(f"sites were {len(config.sites)}, but {sites} is given")
    if differing:
        raise ConfigError(f"{run.path}: belongs to another run: {'; '.join(differing)}")
    show_cases = show_cases or origin.show_cases
    if _finished(run) and (not show_cases or (run.path / _PICTURE).is_file()):
        return None
    here = {} if ray_address is not None else _on_this_machine(config)
    config = config.replace({**here, **{name: value for name, value in given.items() if name in of_one_machine}})
    if ray_address is None:
        settle_gpus(config.machine.gpus_per_site, "--gpus-per-site", partial(warn, console))
        check_compiler(config.machine)
    if federation is not None:
        config = config.replace(sites=_moved(config.sites, federation))
    opened = replace(reopen(console, run, cache, config), show_cases=show_cases)
    if show_cases and not origin.show_cases:
        run.write_config(origin.config, {**origin.provenance, "show_cases": True})
    return opened


def _on_this_machine(config: Settings) -> dict[str, float]:
    """Return a config's CPUs and GPUs for a working site, limited to what this machine has."""
    return {
        "machine.cpus_per_site": min(config.machine.cpus_per_site, os.cpu_count() or 1),
        "machine.gpus_per_site": min(config.machine.gpus_per_site, float(torch.cuda.is_available())),
    }


def _moved(sites: Sequence[Site], federation: Path) -> tuple[Site, ...]:
    """Return a run's sites with the paths from a federation file, matched by name.

    Raises
    ------
    ConfigError
        As in `read_federation`, and if the file lacks a site or has it with another release.
    """
    there = {site.name: site for site in read_federation(federation)}
    for site in sites:
        if site.name not in there:
            raise ConfigError(f"{federation}: has no site {site.name}, which the run has")
        if there[site.name].release == site.release and there[site.name].stated_release != site.stated_release:
            raise ConfigError(f"{federation}: {site.name}: release: {site.release} was declared differently in the run")
        if there[site.name].release != site.release:
            raise ConfigError(
                f"{federation}: {site.name}: release: {there[site.name].release} is given, but the run has "
                f"{site.release}"
            )
    return tuple(replace(site, path=there[site.name].path) for site in sites)


def carry_out(
    console: Console, opened: Federation, run: RunDirectory, cache: Cache, ray_address: str | None, tracker: str | None
) -> None:
    """Do the run and print its tables, unless it is finished; draw cases if they should be shown."""
    config = opened.config
    files = ["results.json", "results.csv", "student.pt", "config.json"]
    if _finished(run):
        results = json.loads((run.path / "results.json").read_bytes())
    else:
        _tell_of_memory(console, config)
        tracked = TrackedRun(open_tracker(tracker, run.path), config, opened.data)
        with LiveView(console, run.hospitals) as view, tracked:
            results = run_simulation(opened, run, cache.prepared, AllOf(view, tracked), ray_address)
            tracked.finished(results)
        print_results(console, results, opened.data)
    if opened.shows_cases:
        _draw(opened, run, results)
        files += [_PICTURE, VOLUMES]
    run.write_file(_FINISHED, b"")
    console.print(f"Results in {escape(str(run.path))}: {', '.join(files)}", soft_wrap=True)


def _tell_of_memory(console: Console, config: Settings) -> None:
    """Print the GPU memory that a step will need, if hospitals use a GPU, and warn early if it does not fit."""
    gpus = config.machine.gpus_per_site
    if gpus == 0:
        return
    held, room = step_memory(config, min(len(config.sites), 2)), min(gpus, 1) * room_on(use_device(config.machine))
    of_room = f"; a hospital has {room / 1e9:.1f} GB free"
    console.print(f"A training step holds {held / 1e9:.1f} GB of a GPU{of_room}", soft_wrap=True)
    if held > room:
        warn(console, f"a step does not fit into the GPU's memory: {what_to_lower(config, share=room / held)}")


def _finished(run: RunDirectory) -> bool:
    return (run.path / _FINISHED).is_file()


def _draw(opened: Federation, run: RunDirectory, results: Mapping[str, Any]) -> None:
    """Write the pictures of a run's example cases."""
    config = opened.config
    about = f"{label(config.method.name)}, seed {config.seed}, {opened.data} data"
    warning = leak_warning(results["overlap"])
    shown = examples(opened, run)
    last = len(results["stages"]) - 1
    facts = f"{about}, profile {config.profile}, final student after stage {last} of {last}"
    write_volumes({label(config.method.name): shown}, facts, opened.data == PHANTOM, warning, run.path / VOLUMES)
    title = f"{about}, final student; Dice of the whole volume, mean over regions"
    plot_examples(shown, title if warning is None else f"{title}\n{warning}", run.path / _PICTURE)
