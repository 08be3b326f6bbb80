"""Finished runs written by hand, as a simulation leaves them."""

import csv
from pathlib import Path

import numpy as np

from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from strategies.results import Results
from strategies.run_directory import RunDirectory

SITES = (Site("north", "brats2021", "/data/north"), Site("west", "brats2023-gli", "/data/west"))
CASES = {
    "north": ["BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00003"],
    "west": ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"],  # a patient with two scans
}
BRATS_REGIONS = ("tc", "wt", "et")


def write_run(
    folder: Path,
    method: str,
    seed: int,
    levels: list[list[float]],
    deployed: list[int] | None = None,
    name: str | None = None,
    unknown: list[float | None] | None = None,
) -> RunRecord:
    """Write and load a run whose Dice of a case is drawn around `levels[row][column]`, HD95 100 mm × (1 − Dice).

    On scans of unknown origin, if the run has scored them, it is drawn around `unknown[column]`, by the same cases.
    """
    rng = np.random.default_rng([seed, 7])  # the same patients are hard for every method
    hardness = {site: rng.uniform(-0.1, 0.1, len(cases)) for site, cases in CASES.items()}
    run = RunDirectory.new(folder / (name or f"{method}-{seed}"))
    cases = {site: {"training": 8, "test": len(names)} for site, names in CASES.items()}
    results = Results(method, seed, list(CASES), deployed or [len(levels) - 1] * 2, cases)
    tables: dict[str, list[dict[str, object]]] = {site: [] for site in CASES}
    for row, by_site in enumerate(levels):
        results.stages.append("untrained" if row == 0 else list(CASES)[row - 1] if len(levels) == 3 else "pooled")
        means = {}
        for level, (site, names) in zip(by_site, CASES.items(), strict=True):
            scores = []
            for name, hard in zip(names, hardness[site], strict=True):
                dice = {region: level + hard + 0.01 * place for place, region in enumerate(BRATS_REGIONS)}
                one = {
                    f"{mask}.dice.{region}": value for mask in ("coarse", "refined") for region, value in dice.items()
                }
                one |= {k.replace("dice", "hd95"): 100 * (1 - v) for k, v in one.items()}
                scores.append(one)
                tables[site] += [
                    {"stage": row, "case": name, "mask": mask, "region": region}
                    | {metric: one[f"{mask}.{metric}.{region}"] for metric in ("dice", "hd95")}
                    for mask in ("coarse", "refined")
                    for region in BRATS_REGIONS
                ]
            means[site] = {k: float(np.mean([s[k] for s in scores])) for k in scores[0]}
        results.rows.append(means)
    results.bytes_out = {site: {"arrays": 1000 + seed, "metrics": 10} for site in CASES}
    results.seconds = {"stage 1": 60.0, "stage 2": 30.0 * (seed + 1)}
    run.write_results(results)
    about = {"name": "phantom", "overlap": {}, "scans": {site: f"scans of {site}" for site in CASES}}
    run.write_config(make_settings("smoke", method=method, seed=seed, sites=SITES), about)
    for site, lines in tables.items():
        own = run.hospitals / site
        own.mkdir(parents=True)
        with (own / "scores.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    if unknown is not None:
        rows = [
            {"site": site, "case": case, "region": region, "dice": (dice := level + hard + 0.01 * place)}
            | {"hd95": 100 * (1 - dice)}
            for level, (site, names) in zip(unknown, CASES.items(), strict=True)
            if level is not None
            for case, hard in zip(names, hardness[site], strict=True)
            for place, region in enumerate(BRATS_REGIONS)
        ]
        with (run.path / "unknown-origin.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return load_run(run.path)
