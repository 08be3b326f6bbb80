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
    dice_by_region : mapping
        Dice by region, only of the student that each site uses at the end: arrays with one row.
    """

    path: Path
    config: Settings
    versions: Mapping[str, str]
    results: Mapping[str, Any]
    scores: Mapping[str, StreamScores]
    dice_by_region: Mapping[str, StreamScores]

    @property
    def patients(self) -> dict[str, Sequence[str]]:
        """The patient of each scored case, by site."""
        return dict(self.scores["dice"].patients)

    def final(self, metric: str) -> list[float]:
        """Return each site's mean score at the end of the stream, with the student that the site then uses."""
        matrix = self.results["R"][metric]["mean"]
        return [matrix[row][column] for column, row in enumerate(self.results["deployed"])]

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
        tables = {
            site.name: _by_case(path, site.name, scored[site.name], deployed[site.name], regions)
            for site in config.sites
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the directory of a finished run ({error!r})") from None
    patients = {site.name: [patient_of(site, case) for case in tables[site.name]] for site in config.sites}
    by_metric, by_region = (
        {site: np.stack([scores[part] for scores in cases.values()], 2) for site, cases in tables.items()}
        for part in (0, 1)
    )
    scores = {
        metric: StreamScores(
            {s: v[place] for s, v in by_metric.items()}, patients, deployed, metric == "dice", arrivals
        )
        for place, metric in enumerate(_METRICS)
    }
    last = dict.fromkeys(patients, 0)
    dice_by_region = {
        region: StreamScores({s: v[place] for s, v in by_region.items()}, patients, last, higher_is_better=True)
        for place, region in enumerate(regions)
    }
    return RunRecord(path, config, about[PROVENANCE]["versions"], results, scores, dice_by_region)


def _by_case(
    path: Path, site: str, scored: Sequence[bool], deployed: int, regions: Sequence[str]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Read a hospital's scores by case: means over regions (metrics, rows), and Dice of the deployed row (regions, 1).

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
        cases[case] = (measured.mean(2), measured[0, deployed, :, None])
    return cases
