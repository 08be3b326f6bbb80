"""Raw-data baselines with SER-Diff+'s site adapters at every hospital except the first, and with larger buffers.

They run by direct calls, because raw data and all hospitals' adapters must be in one place, unlike in a deployment.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from fedserdiff.commands.common import clear_errors, seeds_of
from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.evaluation.bootstrap import Resampling, StreamScores
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.opened_federation import Cache, open_named
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.evaluation import predict_case, score_prediction
from sites.hospital import Hospital
from sites.inversion import invert_contrast
from sites.objectives.base import SEGMENTATION, Objective
from sites.objectives.rehearsal import buffer
from sites.training import Order, optimise
from sites.training_set import Batch, TrainingSet
from strategies.pooled import Pooled

from benchmarks.direct_training import in_rounds

_STREAM = {"machine.cpus_per_site": 1, "data.phantom_stream": "contrast"}  # where adapters have contrasts to translate
_ADAPTERS_RATE = 0.5  # relative to the networks' learning rate, as in SER-Diff+

Rows = list[list[list[float]]]
"""Refined Dice in [0, 1], mean of regions, by stage, site and test case; row 0 is the untrained student's."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Baseline:
    """A baseline: its share of past patients or pooled training, and whether sites have adapters."""

    title: str
    share: float
    adapted: bool
    pooled: bool = False


BASELINES = (
    Baseline("rehearsal, 25 % buffer", 0.25, False),
    Baseline("rehearsal, 100 % buffer", 1.0, False),
    Baseline("rehearsal, 25 % buffer, adapters", 0.25, True),
    Baseline("rehearsal, 100 % buffer, adapters", 1.0, True),
    Baseline("pooled, adapters", 1.0, True, pooled=True),
)


class BehindAdapters(Objective):
    """L = L_seg on cases of several sites, with each scan translated by its site's adapter; all adapters are trained.

    Parameters
    ----------
    config : Settings
    cases : mapping of str to sequence of CachedCase
        Cases by site, in the order of the training set.
    adapters : mapping of str to SiteAdapter
        Adapters by site; the scans of a site without one are not translated.
    """

    def __init__(
        self,
        config: Settings,
        cases: Mapping[str, Sequence[CachedCase]],
        adapters: Mapping[str, SiteAdapter],
    ) -> None:
        super().__init__(config)
        self._adapters = adapters
        self._sites = list(cases)
        device = torch.device("cpu")
        self._ends = torch.tensor([len(TrainingSet(own, config, device)) for own in cases.values()]).cumsum(0)

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the lesson of the batch, with its scans translated."""
        origin = torch.bucketize(batch.index, self._ends, right=True)
        image = batch.image.clone()
        for number, site in enumerate(self._sites):
            if site in self._adapters and (here := origin == number).any():
                image[here] = self._adapters[site](batch.image[here])
        return {SEGMENTATION: Lesson(image, batch.truth, noise)}

    def learns_beside(self, network: str, learning_rate: float) -> list[dict[str, Any]]:
        """Return the adapters' weights, which are trained with the coarse network's terms."""
        weights = [weight for adapter in self._adapters.values() for weight in adapter.parameters()]
        return [{"params": weights, "lr": _ADAPTERS_RATE * learning_rate}] if weights and network == "coarse" else []


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas.")] = "0,1,2",
    sites: Annotated[int, typer.Option(min=2, help="Number of phantom hospitals.")] = 3,
    profile: Annotated[str, typer.Option(help="Profile of the training.")] = "laptop",
) -> None:
    """Train the baselines on a phantom stream, with as many steps as in `compare.py`; all of them break privacy."""
    console = open_console()
    with clear_errors("nothing: scores are written at the end"):
        use_cpus(1)
        runs: dict[str, dict[int, Rows]] = {baseline.title: {} for baseline in BASELINES}
        patients: dict[int, dict[str, list[str]]] = {}
        for seed in seeds_of(seeds):
            federation = open_named(console, make_settings(profile, _STREAM, seed=seed), None, sites, Cache())
            hospitals = federation.hospitals
            patients[seed] = {h.site.name: [c.case.patient for c in h.scored(federation.config)] for h in hospitals}
            with console.status(f"seed {seed}: stage 1"):
                start = _first_stage(hospitals[0], federation.config)
            for baseline in BASELINES:
                with console.status(f"seed {seed}: {baseline.title}"):
                    runs[baseline.title][seed] = rows = _run(baseline, start, hospitals, federation.config)
                console.print(f"  seed {seed}, {baseline.title}: {_by_site(rows[-1])}")
        rows_of_table = _summary(runs, patients)
        report = {"data": "phantom", "profile": profile, "sites": sites, "rows": rows_of_table, "dice": runs}
        write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    _print(console, rows_of_table, f"phantom, {sites} sites, seeds {seeds}; {profile}")


def _first_stage(hospital: Hospital, config: Settings) -> Student:
    """Return the student after stage 1, the same for every baseline that has stages."""
    student = new_student(config)
    _train(student, 1, 1, {hospital.site.name: hospital.training}, {}, hospital.site.name, config)
    return student


def _run(baseline: Baseline, start: Student, hospitals: Sequence[Hospital], config: Settings) -> Rows:
    """Return the scores of a baseline, row by row."""
    config = config.replace({"method.share": baseline.share})
    adapters: dict[str, SiteAdapter] = {}
    if baseline.pooled:
        student = new_student(config)
        rows = [_scores(student, hospitals, adapters, config)]
        adapters = {h.site.name: _new_adapter(h, config) for h in hospitals[1:]}
        everything = {h.site.name: h.training for h in hospitals}
        (plan,) = Pooled(config).stages(list(everything))
        _train(student, 1, plan.length, everything, adapters, hospitals[0].site.name, config)
        return [*rows, _scores(student, hospitals, adapters, config)]
    student = deepcopy(start)
    rows = [_scores(s, hospitals, adapters, config) for s in (new_student(config), student)]
    for stage, hospital in enumerate(hospitals[1:], 2):
        name = hospital.site.name
        if baseline.adapted:
            teacher = deepcopy(student).eval().requires_grad_(False)
            own = TrainingSet(hospital.training, config, torch.device("cpu"))
            adapters[name] = invert_contrast(teacher, own, config, generator(config.seed, "inversion", name, stage))
        past: dict[str, Sequence[CachedCase]] = {h.site.name: buffer(h, config) for h in hospitals[: stage - 1]}
        _train(student, stage, 1, past | {name: hospital.training}, adapters, name, config)
        rows.append(_scores(student, hospitals, adapters, config))
    return rows


def _new_adapter(hospital: Hospital, config: Settings) -> SiteAdapter:
    """Return a new adapter, which is the identity: pooled training has no teacher for contrast inversion."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, "adapter", hospital.site.name).initial_seed())
        return SiteAdapter(len(config.data.modalities))


def _train(
    student: Student,
    stage: int,
    length: int,
    cases: Mapping[str, Sequence[CachedCase]],
    adapters: Mapping[str, SiteAdapter],
    site: str,
    config: Settings,
) -> None:
    """Train student and adapters in place for a stage; the student is rounded as in messages."""
    training_set = TrainingSet([case for own in cases.values() for case in own], config, torch.device("cpu"))
    objective = BehindAdapters(config, cases, adapters)
    in_rounds(
        student, config, lambda number: optimise(student, training_set, objective, Order(stage, number, length), site)
    )


def _scores(
    student: Student,
    hospitals: Sequence[Hospital],
    adapters: Mapping[str, SiteAdapter],
    config: Settings,
) -> list[list[float]]:
    """Return the refined Dice of every scored case, by site, with each site's own adapter."""
    student.eval()

    def score(cached: CachedCase, adapter: SiteAdapter | None) -> float:
        return mean_over_regions(
            score_prediction(predict_case(student, cached, config, adapter), cached), "refined", "dice"
        )

    return [[score(c, adapters.get(h.site.name)) for c in h.scored(config)] for h in hospitals]


def _summary(
    runs: Mapping[str, Mapping[int, Rows]], patients: Mapping[int, Mapping[str, Sequence[str]]]
) -> list[dict[str, Any]]:
    """Return one row per baseline, with 95 % intervals over seeds and patients, paired across baselines."""
    draws = Resampling(patients, shared_patients=False)

    def stream(seed: int, rows: Rows) -> StreamScores:
        names = list(patients[seed])
        values = {name: np.array([row[place] for row in rows]) for place, name in enumerate(names)}
        return StreamScores(values, patients[seed], dict.fromkeys(names, len(rows) - 1), True)

    summary = []
    for title, by_seed in runs.items():
        estimates = draws.estimates({seed: stream(seed, rows) for seed, rows in by_seed.items()})
        told = {name: e for name, e in estimates.items() if name in ("final", "forgetting") and e is not None}
        summary.append(
            {
                "title": title,
                "text": interval_text(scaled(told["final"], 100)),
                "by_seed": {str(seed): [float(np.mean(cases)) for cases in rows[-1]] for seed, rows in by_seed.items()},
                **{name: estimate.interval().to_dict() for name, estimate in told.items()},
                "arrival": _arrival(by_seed),
            }
        )
    return summary


def _arrival(by_seed: Mapping[int, Rows]) -> float | None:
    """Return the mean Dice of later sites right after their own stages; None for pooled training."""
    arrivals = [float(np.mean(rows[stage][stage - 1])) for rows in by_seed.values() for stage in range(2, len(rows))]
    return float(np.mean(arrivals)) if arrivals else None


def _by_site(row: Sequence[Sequence[float]]) -> str:
    means = [100 * float(np.mean(cases)) for cases in row]
    return f"{', '.join(f'{mean:.0f}' for mean in means)} = {np.mean(means):.1f}"


def _print(console: Console, rows: Sequence[Mapping[str, Any]], about: str) -> None:
    table = Table(
        "baseline (all break privacy)", "Dice % by seed", "mean [95 %]", "forgetting", "on arrival", title=about
    )
    for row in rows:
        seeds = "; ".join(", ".join(f"{100 * dice:.0f}" for dice in sites) for sites in row["by_seed"].values())
        table.add_row(
            row["title"], seeds, row["text"],
            f"{100 * row['forgetting']['value']:.1f}" if "forgetting" in row else "–",
            "–" if row["arrival"] is None else f"{100 * row['arrival']:.1f}",
        )  # fmt: skip
    print_table(console, table)
    console.print("Each hospital's scans are scored with its own adapter, if the baseline has adapters.")


if __name__ == "__main__":
    app()
