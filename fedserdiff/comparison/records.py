"""A finished run as comparisons read it: its ``results.json``, and each hospital's scores by case."""

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


@dataclass(frozen=True)
class RunRecord:
    """One finished run of a simulation.

    Attributes
    ----------
    path : Path
        Its directory.
    config : Settings
        What made it.
    versions : mapping
        Of the software that made it.
    results : mapping
        The contents of its ``results.json``.
    scores : mapping
        By metric (``dice`` as a fraction, ``hd95`` in mm), the refined masks' mean over regions for every case, stage
        and site.
    """

    path: Path
    config: Settings
    versions: Mapping[str, str]
    results: Mapping[str, Any]
    scores: Mapping[str, StreamScores]

    @property
    def patients(self) -> dict[str, Sequence[str]]:
        """The patient of each scored case, by site."""
        return dict(self.scores["dice"].patients)

    def final(self, metric: str) -> list[float]:
        """Return each site's mean score at the end of the stream, by the student that the site then uses."""
        matrix = self.results["R"][metric]["mean"]
        return [matrix[row][column] for column, row in enumerate(self.results["deployed"])]

    @property
    def seconds(self) -> float:
        """The run's whole computation, a shared stage 1 included."""
        return float(sum(self.results["seconds"].values()))


def load_run(path: Path) -> RunRecord:
    """Load a finished run's directory.

    Raises
    ------
    ConfigError
        Where a file is missing or damaged, or hospitals' own scores do not cover every stage, by the config or in fact.
    """
    try:
        about = json.loads((path / "config.json").read_text())
        results = json.loads((path / "results.json").read_text())
        config = Settings.from_dict(about)
        if config.scoring.evaluate_every > 1 or 0 < config.scoring.evaluate_sites < len(config.sites):
            raise ConfigError(
                f"{path}: this run was scored in part (evaluate_every {config.scoring.evaluate_every}, evaluate_sites "
                f"{config.scoring.evaluate_sites}): a comparison needs every site's scores after every stage"
            )
        tables = {site.name: _by_case(path, site.name, len(results["stages"])) for site in config.sites}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not the directory of a finished run ({error!r})") from None
    patients = {site.name: [patient_of(site, case) for case in tables[site.name]] for site in config.sites}
    scores = {
        metric: StreamScores(
            values={name: np.stack([table[metric] for table in cases.values()], 1) for name, cases in tables.items()},
            patients=patients,
            deployed=dict(zip(results["sites"], results["deployed"], strict=True)),
            higher_is_better=metric == "dice",
        )
        for metric in ("dice", "hd95")
    }
    return RunRecord(path, config, about[PROVENANCE]["versions"], results, scores)


def _by_case(path: Path, site: str, rows: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return a hospital's scores by case and metric, each of shape (rows,)."""
    cases: dict[str, dict[str, NDArray[np.float64]]] = {}
    by_region: dict[tuple[str, int], list[dict[str, str]]] = {}
    with (path / "hospitals" / site / "scores.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            if line["mask"] == "refined":
                by_region.setdefault((line["case"], int(line["stage"])), []).append(line)
    for (case, stage), lines in by_region.items():
        scores = cases.setdefault(case, {m: np.full(rows, np.nan) for m in ("dice", "hd95")})
        for metric, stages in scores.items():
            stages[stage] = np.mean([float(line[metric]) for line in lines])
    if any(np.isnan(values).any() for scores in cases.values() for values in scores.values()):
        raise ValueError(f"scores.csv of {site} does not cover every stage")
    return dict(sorted(cases.items()))
