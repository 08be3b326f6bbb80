"""The Python interface to experiments, which ``import fedserdiff`` offers to scripts and notebooks."""

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
from fedserdiff.methods import COMPARED, get_method
from fedserdiff.model_file import load_student
from fedserdiff.report.console import open_console
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import Layers, layers_of, layers_of_settings
from strategies.run_directory import RunDirectory

Choice = Settings | str | Mapping[str, Any] | None
"""Settings, a profile's name or file, changes by ``group.name``, or None for the hospitals' file or default profile."""

Named = int | str | Path | Sequence[Site]
"""Hospitals: a number of phantom hospitals, an experiment file, or a sequence of sites."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    path : Path
        The run's directory.
    """

    path: Path

    def __post_init__(self) -> None:
        if not (self.path / "results.json").is_file():
            raise ConfigError(f"{self.path}: is not the directory of a finished run: it has no results.json")

    @cached_property
    def results(self) -> dict[str, Any]:
        """The contents of ``results.json``."""
        found: dict[str, Any] = json.loads((self.path / "results.json").read_bytes())
        return found

    @cached_property
    def settings(self) -> Settings:
        """The settings of the run."""
        return Settings.from_dict(json.loads((self.path / "config.json").read_bytes()))

    @property
    def sites(self) -> list[str]:
        """Names of the hospitals in order of arrival, which is the order of R's columns."""
        return list(self.results["sites"])

    @property
    def R(self) -> NDArray[np.float64]:
        """Mean Dice of refined masks in [0, 1]: rows are stages from 0 (untrained), columns are hospitals."""
        return self.matrix()

    def matrix(self, metric: str = "dice", region: str = "mean", mask: str = "refined") -> NDArray[np.float64]:
        """Return R for a metric (``dice``, ``hd95`` or a configured extra metric), a region or ``mean``, and a mask."""
        table = self.results["R" if mask == "refined" else "R_coarse"]
        try:
            rows = table[metric][region]
        except KeyError:
            known = f"{', '.join(table)}; regions {', '.join(table['dice'])}"
            raise ConfigError(f"{metric}, {region}: unknown; this run has the metrics {known}") from None
        return np.array([[np.nan if value is None else value for value in row] for row in rows], float)

    @cached_property
    def scores(self) -> Any:
        """All scores of the scored cases, as a pandas DataFrame if pandas is installed, otherwise a list of dicts.

        There is one row for each stage, ``site``, case, mask (``coarse``, ``refined``) and region. Columns are those of
        ``scores.csv``, such as ``dice`` in [0, 1] and ``hd95`` in mm.
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
        """Return the final student as a segmenter of whole scans, for scans of `site`.

        Raises
        ------
        ConfigError
            If the run has no such site, or its method needs to know the site and none is given.
        """
        return open_model(self.path, site)


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods.

    Attributes
    ----------
    path : Path
        The comparison's directory, with ``report.html`` and ``comparison.json``.
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
        """The rows of ``comparison.csv``, one for each method: a DataFrame if pandas is installed, otherwise dicts."""
        rows = list(_table(self.path / "comparison.csv"))
        try:
            return importlib.import_module("pandas").DataFrame(rows).apply(_numeric)
        except ImportError:
            return rows

    @property
    def verdicts(self) -> list[str]:
        """Verdicts on which method beats which, as sentences, corrected for the number of comparisons."""
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
    """Simulate a federation: hospitals arrive one after another, and one student model learns from each.

    Parameters
    ----------
    hospitals : int, path, or sequence of Site
        A number of phantom hospitals, an experiment file, or a sequence of sites.
    settings : Settings, str or mapping, optional
        Settings, a profile's name, or changes by ``group.name``.
    out : path, optional
        New directory for the results; ``runs/TIME-METHOD-seedSEED`` by default.
    cache : path, optional
        Folder for phantom scans and prepared cases; in the user's cache folder by default.
    show_cases : bool
        Whether to write pictures of cases even if they are not phantoms.
    quiet : bool
        Whether to print nothing; otherwise the output is that of ``fedserdiff simulate``.

    Returns
    -------
    Run
        The finished run.

    Raises
    ------
    FedSerDiffError
        As in ``fedserdiff simulate``; the text says what was wrong, where, and what to do.
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
    methods: Sequence[str] = COMPARED,
    settings: Choice = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    out: Path | str | None = None,
    cache: Path | str | None = None,
    show_cases: bool = False,
    parallel: int = 1,
    quiet: bool = True,
) -> Comparison:
    """Run several methods on one stream of hospitals, reuse finished runs, and write a comparison page.

    Parameters
    ----------
    hospitals, settings, cache, show_cases, quiet
        As in `simulate`. A method setting applies to each of the methods that has such a setting.
    methods : sequence of str
        Names of the methods.
    seeds : sequence of int
        Seeds to run; verdicts need at least three.
    out : path, optional
        Directory for runs and page; ``runs/compare-DATA-PROFILE`` by default. A later call reuses its runs.
    parallel : int
        Number of runs at a time.

    Raises
    ------
    FedSerDiffError
        As in ``fedserdiff compare``.
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
    """Return the hospitals with their own scans, and the number of phantom hospitals otherwise."""
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
    """Return a DataFrame's column as numbers if it contains nothing else."""
    try:
        return column.astype(float)
    except ValueError:
        return column
