"""Records of finished runs for comparisons: ``results.json`` and each hospital's scores by case."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.site_cases import patient_of
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import StreamScores
from fedserdiff.settings.experiment import PROVENANCE, Settings

UNKNOWN_ORIGIN = "unknown-origin.csv"
"""File with a run's scores on scans of unknown origin, if its method depends on the origin."""

_METRICS = ("dice", "hd95")


@dataclass(frozen=True)
class RunRecord:
    """One finished run of a simulation.

    Attributes
    ----------
    path : Path
        The run's directory.
    config : Settings
        The run's settings.
    versions : mapping
        Software versions of the run.
    results : mapping
        The contents of its ``results.json``.
    scores : mapping
        Scores of the refined masks by metric (``dice`` as a fraction, ``hd95`` in mm): means over regions for every
        case, stage and site.
    at_end, dice_by_region : mapping
        Such scores, and Dice by region, only of the student that each site uses at the end: arrays with one row. They
        are of scans of unknown origin if the run has scored those.
    unknown_origin : bool
        Whether `at_end` and `dice_by_region` are of scans of unknown origin.
    """

    path: Path
    config: Settings
    versions: Mapping[str, str]
    results: Mapping[str, Any]
    scores: Mapping[str, StreamScores]
    at_end: Mapping[str, StreamScores]
    dice_by_region: Mapping[str, StreamScores]
    unknown_origin: bool

    @property
    def patients(self) -> dict[str, Sequence[str]]:
        """The patient of each scored case, by site."""
        return dict(self.scores["dice"].patients)

    def final(self, metric: str) -> list[float]:
        """Return each site's mean score at the end of the stream, with the student that the site then uses."""
        return [float(values.mean()) for values in self.at_end[metric].values.values()]

    @property
    def seconds(self) -> float:
        """Computation time of the whole run in seconds, including a shared stage 1."""
        return float(sum(self.results["seconds"].values()))


def load_run(path: Path) -> RunRecord:
    """Load a finished run from its directory.

    Raises
    ------
    ConfigError
        If a file is missing or damaged, or the hospitals' scores do not cover every stage.
    """
    try:
        about = json.loads((path / "config.json").read_text())
        results = json.loads((path / "results.json").read_text())
        config = Settings.from_dict(about)
        if config.scoring.evaluate_every > 1 or 0 < config.scoring.evaluate_sites < len(config.sites):
            raise ConfigError(
                f"{path}: this run was scored in part (evaluate_every {config.scoring.evaluate_every}, evaluate_sites "
                f"{config.scoring.evaluate_sites}); a comparison needs every site's scores after every stage"
            )
        deployed: dict[str, int] = dict(zip(results["sites"], results["deployed"], strict=True))
        arrivals: dict[str, int] = dict(zip(results["sites"], results["arrivals"], strict=False))  # of some none
        regions = config.data.regions
        scored = {
            site: [row[column] is not None for row in results["R"]["dice"]["mean"]]
            for column, site in enumerate(results["sites"])
        }
        tables = {site.name: _by_case(path, site.name, scored[site.name], regions) for site in config.sites}
        ends = _deployed(tables, deployed)
        if unknown_origin := (path / UNKNOWN_ORIGIN).is_file():
            ends = _of_unknown_origin(path, ends, regions)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the directory of a finished run ({error!r})") from None
    patients = {site.name: [patient_of(site, case) for case in tables[site.name]] for site in config.sites}
    streams, lasts = ({site: np.stack([*cases.values()], 3) for site, cases in of.items()} for of in (tables, ends))
    scores, at_end = {}, {}
    last = dict.fromkeys(patients, 0)
    for place, metric in enumerate(_METRICS):
        higher = metric == "dice"
        means = {site: values[place].mean(1) for site, values in streams.items()}
        scores[metric] = StreamScores(means, patients, deployed, higher, arrivals)
        final = {site: values[place].mean(1) for site, values in lasts.items()}
        at_end[metric] = StreamScores(final, patients, last, higher)
    dice_by_region = {
        region: StreamScores({s: v[0, :, place] for s, v in lasts.items()}, patients, last, higher_is_better=True)
        for place, region in enumerate(regions)
    }
    return RunRecord(
        path, config, about[PROVENANCE]["versions"], results, scores, at_end, dice_by_region, unknown_origin
    )


_Tables = dict[str, dict[str, NDArray[np.float64]]]
"""By site and case: scores of the refined mask (metrics, rows, regions)."""


def _by_case(path: Path, site: str, scored: Sequence[bool], regions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Read a hospital's scores by case: (metrics, rows, regions).

    Rows that the hospital has not `scored` because it had left are NaN.
    """
    by_case: dict[str, dict[tuple[int, str], dict[str, str]]] = {}
    with (path / "hospitals" / site / "scores.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["mask"] == "refined":
                by_case.setdefault(line["case"], {})[int(line["stage"]), line["region"]] = line
    cases = {}
    for case, lines in sorted(by_case.items()):
        rows = [row for row, there in enumerate(scored) if there]
        if any((row, region) not in lines for row in rows for region in regions):
            raise ValueError(f"scores.csv of {site} does not cover every stage")
        measured = np.full((len(_METRICS), len(scored), len(regions)), np.nan)
        measured[:, rows] = [[[float(lines[row, r][metric]) for r in regions] for row in rows] for metric in _METRICS]
        cases[case] = measured
    return cases


def _deployed(tables: _Tables, deployed: Mapping[str, int]) -> _Tables:
    """Return the scores of the student that each site uses at the end."""
    return {site: {case: of[:, [deployed[site]]] for case, of in cases.items()} for site, cases in tables.items()}


def _of_unknown_origin(path: Path, ends: _Tables, regions: Sequence[str]) -> _Tables:
    """Return the scores at the end, `ends`, with those that a run has of scans of unknown origin.

    A site that has left keeps its own student, so it has none.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with (path / UNKNOWN_ORIGIN).open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            scores = [float(line[metric]) for metric in _METRICS]
            found.setdefault(line["site"], {}).setdefault(line["case"], {})[line["region"]] = scores
    replaced = dict(ends)
    for site, cases in found.items():
        if cases.keys() != ends[site].keys():
            raise ValueError(f"{UNKNOWN_ORIGIN} has other cases of {site} than scores.csv")
        replaced[site] = {case: np.array([cases[case][region] for region in regions]).T[:, None] for case in ends[site]}
    return replaced
