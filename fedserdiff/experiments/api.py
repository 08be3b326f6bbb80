"""Experiments from Python: what ``import fedserdiff`` offers to scripts and notebooks."""

import csv
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import hospitals_of, layers_of_file, phantoms_of
from fedserdiff.experiments.comparison import Setting, claim, compare_methods, write_page
from fedserdiff.experiments.opened_federation import PHANTOM_SITES, RUNS, Cache, Hospitals, open_named
from fedserdiff.experiments.opened_model import open_model
from fedserdiff.experiments.run_pool import RunPool
from fedserdiff.experiments.simulated_run import carry_out, new_folder, on_what_there_is
from fedserdiff.methods import get_method
from fedserdiff.model_file import load_student
from fedserdiff.report.console import open_console
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import Layers, layers_of, layers_of_settings
from strategies.run_directory import RunDirectory

Choice = Settings | str | Mapping[str, Any] | None
"""Settings, a profile's name or file, changes by ``group.name``, or None for what the hospitals' file or the default
profile says."""

Named = int | str | Path | Sequence[Site]
"""Hospitals: a number of phantoms, an experiment's file, or sites named one by one."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path : Path
        Its directory.
    """

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / "results.json").is_file():
            raise ConfigError(f"{self.path}: is no finished run's directory: it holds no results.json")

    @cached_property
    def results(self) -> dict[str, Any]:
        """The contents of ``results.json``."""
        found: dict[str, Any] = json.loads((self.path / "results.json").read_bytes())
        return found

    @cached_property
    def settings(self) -> Settings:
        """The settings that it was made by."""
        return Settings.from_dict(json.loads((self.path / "config.json").read_bytes()))

    @property
    def sites(self) -> list[str]:
        """Names of the hospitals in order of arrival, which are the columns of R."""
        return list(self.results["sites"])

    @property
    def R(self) -> NDArray[np.float64]:
        """Mean Dice of refined masks in [0, 1], a row a stage from 0, untrained, and a column a hospital."""
        return self.matrix()

    def matrix(self, metric: str = "dice", region: str = "mean", mask: str = "refined") -> NDArray[np.float64]:
        """Return R for a metric (``dice``, ``hd95``, others that were asked for), a region or ``mean``, and a mask."""
        table = self.results["R" if mask == "refined" else "R_coarse"]
        try:
            rows = table[metric][region]
        except KeyError:
            known = f"{', '.join(table)}; regions {', '.join(table['dice'])}"
            raise ConfigError(f"{metric}, {region}: not among the metrics {known}") from None
        return np.array([[np.nan if value is None else value for value in row] for row in rows], float)

    @cached_property
    def scores(self) -> Any:
        """Every scored case's scores: a pandas frame where pandas is there, else dicts.

        A row a stage, ``site``, case, mask (``coarse``, ``refined``) and region; columns are those of ``scores.csv``,
        such as ``dice`` in [0, 1] and ``hd95`` in mm.
        """
        rows = [
            {"stage": int(line.pop("stage")), "site": site}
            | {name: line.pop(name) for name in ("case", "mask", "region")}
            | {name: float(value) for name, value in line.items()}
            for site in self.sites
            for line in _table(self.path / "hospitals" / site / "scores.csv")
        ]
        try:
            return importlib.import_module("pandas").DataFrame(rows)
        except ImportError:
            return rows

    @cached_property
    def student(self) -> Student:
        """The final student, on the CPU."""
        return load_student(self.settings, self.path / "student.pt")

    def segmenter(self, site: str | None = None) -> Segmenter:
        """Return the final student as a segmenter of whole scans, for those of a `site`.

        Raises
        ------
        ConfigError
            If the site is none of the run's, or its method has to know it and none is named.
        """
        return open_model(self.path, site)


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods.

    Attributes
    ----------
    path : Path
        Its directory, with ``report.html`` and ``comparison.json``.
    result : mapping
        The contents of ``comparison.json``.
    runs : mapping
        Finished runs by method and seed.
    """

    path: Path
    result: Mapping[str, Any]
    runs: Mapping[str, Mapping[int, Run]]

    @property
    def table(self) -> Any:
        """A row a method, as ``comparison.csv`` has it, in a pandas frame where pandas is there, else dicts."""
        rows = list(_table(self.path / "comparison.csv"))
        try:
            return importlib.import_module("pandas").DataFrame(rows).apply(_numeric)
        except ImportError:
            return rows

    @property
    def verdicts(self) -> list[str]:
        """What beats what, in sentences, corrected for how many are compared."""
        return [verdict["text"] for verdict in self.result["verdicts"]]


def simulate(
    hospitals: Named = PHANTOM_SITES,
    settings: Choice = None,
    *,
    out: Path | str | None = None,
    cache: Path | str | None = None,
    show_cases: bool = False,
    quiet: bool = True,
) -> Run:
    """Simulate a federation: hospitals arrive one after another, and one student learns from each.

    Parameters
    ----------
    hospitals : int, path, or sequence of Site
        A number of phantom hospitals, an experiment's file, or hospitals named one by one.
    settings : Settings, str or mapping, optional
        Settings, a profile's name, or changes by ``group.name``.
    out : path, optional
        New directory for the results; ``runs/TIME-METHOD-seedSEED`` by default.
    cache : path, optional
        Folder of phantoms and prepared cases; in the user's cache by default.
    show_cases : bool
        Whether pictures of cases are written, though they are no phantoms.
    quiet : bool
        Whether nothing is printed; otherwise as ``fedserdiff simulate`` prints.

    Returns
    -------
    Run
        Finished.

    Raises
    ------
    FedSerDiffError
        As ``fedserdiff simulate``; the text says what was wrong, where, and what to do.
    """
    console = Console(quiet=True) if quiet else open_console()
    named, phantoms = _hospitals(hospitals)
    layers = _layers(hospitals, settings)
    config = on_what_there_is(console, layers.settings(), layers)
    kept = Cache.at(None if cache is None else Path(cache))
    folder = Path(out) if out is not None else new_folder(config)
    opened = open_named(console, config, named, phantoms, kept, show_cases=show_cases, beside=folder.parent)
    run = RunDirectory.new(folder)
    carry_out(console, opened, run, kept, None, None)
    return Run(run.path)


def compare(
    hospitals: Named = PHANTOM_SITES,
    methods: Sequence[str] = ("ser-diff-plus", "ser-diff", "fine-tune", "rehearsal", "pooled"),
    settings: Choice = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    out: Path | str | None = None,
    cache: Path | str | None = None,
    show_cases: bool = False,
    parallel: int = 1,
    quiet: bool = True,
) -> Comparison:
    """Run methods on one stream of hospitals, reuse what is done already, and write one page that compares.

    Parameters
    ----------
    hospitals, settings, cache, show_cases, quiet
        As `simulate`'s. What is set of a method holds for each of the methods that has such a setting.
    methods : sequence of str
        By name.
    seeds : sequence of int
        Fewer than three decide nothing.
    out : path, optional
        Directory of runs and page; ``runs/compare-DATA-PROFILE`` by default. A later call uses its runs again.
    parallel : int
        Runs at a time.

    Raises
    ------
    FedSerDiffError
        As ``fedserdiff compare``.
    """
    console = Console(quiet=True) if quiet else open_console()
    for method in methods:
        get_method(method)
    layers = _layers(hospitals, settings)
    config = on_what_there_is(console, layers.for_methods(methods), layers)
    named, phantoms = _hospitals(hospitals)
    sites = PHANTOM_SITES if phantoms is None else phantoms
    kept = Cache.at(None if cache is None else Path(cache))
    beside = RUNS if out is None else Path(out).parent
    setting = Setting(config, list(seeds), named, sites, console, kept, False, show_cases, beside)
    folder = Path(out) if out is not None else RUNS / f"compare-{setting.folder}-{config.profile}"
    claim(folder, setting)
    pool = RunPool(folder, setting.cache.prepared, parallel, console, setting.data)
    made, records = compare_methods(pool, setting, methods, folder)
    (result,) = write_page(folder, setting, [made])
    runs = {name: {seed: Run(one.path) for seed, one in by_seed.items()} for name, by_seed in records.items()}
    return Comparison(folder, result, runs)


def _hospitals(hospitals: Named) -> tuple[Hospitals, int | None]:
    """Return who has scans of their own, and how many phantoms there are otherwise."""
    if isinstance(hospitals, int):
        return None, hospitals
    if isinstance(hospitals, str | Path):
        return hospitals_of(Path(hospitals)), phantoms_of(Path(hospitals))
    return tuple(hospitals), None


def _layers(hospitals: Named, settings: Choice) -> Layers:
    file = Path(hospitals) if isinstance(hospitals, str | Path) else None
    if isinstance(settings, Settings):
        return layers_of_settings(settings)
    profile = settings if isinstance(settings, str) else None
    below = layers_of_file(file, profile) if file is not None else layers_of(*filter(None, [profile]))
    return below.on_top("settings", settings) if isinstance(settings, Mapping) else below


def _table(file: Path) -> Iterable[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def _numeric(column: Any) -> Any:
    """Return a frame's column as numbers where it holds nothing else."""
    try:
        return column.astype(float)
    except ValueError:
        return column
