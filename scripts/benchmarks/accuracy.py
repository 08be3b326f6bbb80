"""The benefit of the diffusion: the refined mask against coarse networks with equal training budget or FLOPs."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from fedserdiff.commands.common import clear_errors, seeds_of
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Estimate, Resampling, StreamScores
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.federation import phantom_federation
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.settings.training import one_round
from fedserdiff.threads import use_cpus
from sites.evaluation import score_case
from sites.hospital import Hospital, open_hospital

from benchmarks.direct_training import train_stage
from benchmarks.enlarged_coarse import coarse_flops, coarse_only, enlarged_coarse, refined_flops
from benchmarks.machine import machine

_OTHERS_SEED, _OTHERS = 2000, 12  # settings were chosen on seed 1000; these patients were never used for that
_WARM_UP, _TIMED = 5, 20  # steps of a pilot
_PILOT_SEED = 0
_METRICS = ("dice", "hd95")
_GROUPS = {"test": "test patients of site 1", "others": "other patients of its scanner"}


@dataclass(frozen=True)
class Candidate:
    """A network to train, with its settings and the mask that counts."""

    title: str
    config: Settings
    mask: str


@dataclass(frozen=True)
class Trained:
    """CPU seconds of a candidate's training on one seed, and the scores of each case by group and metric.

    Scores are Dice in [0, 1] and HD95 in mm, mean over TC, WT and ET.
    """

    cpu_s: float
    scores: dict[str, dict[str, list[float]]]


def accuracy(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    seeds: Annotated[str, typer.Option(help="Seeds, each with its own phantoms and weights.")] = "0,1,2",
    profile: Annotated[str, typer.Option(help="Profile of the training.")] = "laptop",
) -> None:
    """Train the default network and coarse networks with the same budget on phantom site 1, on one thread."""
    console = open_console()
    with clear_errors("nothing: figures are written at the end"):
        config = make_settings(profile, {"machine.cpus_per_site": 1}, method="fine-tune")
        numbers = seeds_of(seeds)
        use_cpus(1)
        with console.status("preparing phantoms"):
            others = _hospital(config.replace({"data.phantom_patients": _OTHERS}, seed=_OTHERS_SEED)).cases
            hospitals = {seed: _hospital(config.replace(seed=seed)) for seed in numbers}
        cases = {seed: {"test": hospital.test, "others": others} for seed, hospital in hospitals.items()}
        with console.status("timing steps"):
            candidates = _candidates(config, next(iter(hospitals.values())))
        trained: dict[str, dict[int, Trained]] = {candidate.title: {} for candidate in candidates}
        for seed, hospital in hospitals.items():
            students: dict[Settings, tuple[Student, float]] = {}
            for candidate in candidates:
                with console.status(f"seed {seed}: {candidate.title}"):
                    own = candidate.config.replace(seed=seed)
                    if own not in students:
                        students = {own: _train(own, hospital)}  # the two masks of a student follow each other
                    student, cpu_s = students[own]
                    scores = {group: _score(student, c, own, candidate.mask) for group, c in cases[seed].items()}
                    trained[candidate.title][seed] = Trained(cpu_s, scores)
                dice = ", ".join(f"{100 * np.mean(s['dice']):.1f} ({group})" for group, s in scores.items())
                console.print(f"  seed {seed}, {candidate.title}: {cpu_s:.0f} CPU s, Dice % {dice}")
        report: dict[str, Any] = {
            "data": "phantom, site 1",
            "seeds": numbers,
            "cases a seed": {group: [len(cases[seed][group]) for seed in numbers] for group in _GROUPS},
            "others": f"seed {_OTHERS_SEED}, the same for every seed",
            "machine": machine(1),
            "config": config.to_dict(),
            "rows": _rows(candidates, trained, cases),
        }
        write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    _print(console, report)


def _candidates(config: Settings, hospital: Hospital) -> list[Candidate]:
    """Return the candidates: the default network, its coarse network alone, and the enlarged one.

    Candidates with the same CPU seconds take as many steps as fit into the default's time, measured by pilot runs.
    """
    if not config.training.steps_per_stage:
        raise ConfigError(f"profile {config.profile}: its stages are in epochs: choose a profile with steps")
    alone, enlarged = coarse_only(config), enlarged_coarse(config)
    budget = config.training.steps_per_stage * _step_s(config, hospital)
    shorter = {
        c: c.replace({"training.steps_per_stage": max(c.rounds, round(budget / _step_s(c, hospital)))})
        for c in (alone, enlarged)
    }
    return [
        Candidate("refined", config, "refined"),
        Candidate("coarse of the same student", config, "coarse"),
        Candidate("coarse alone, same CPU seconds", shorter[alone], "coarse"),
        Candidate("enlarged coarse, same steps", enlarged, "coarse"),
        Candidate("enlarged coarse, same CPU seconds", shorter[enlarged], "coarse"),
    ]


def _step_s(config: Settings, hospital: Hospital) -> float:
    """Return the median CPU seconds of a training step."""
    pilot = config.replace(
        {"training.steps_per_stage": _WARM_UP + _TIMED, **one_round(config.training, config.method)}, seed=_PILOT_SEED
    )
    ends: list[float] = []
    train_stage(new_student(pilot), 1, hospital, pilot, lambda step, steps, terms: ends.append(time.process_time()))
    return statistics.median(np.diff(ends[_WARM_UP - 1 :]))


def _hospital(config: Settings) -> Hospital:
    return open_hospital(phantom_federation(1, config, Cache().phantoms)[0], config, Cache().prepared)


def _train(config: Settings, hospital: Hospital) -> tuple[Student, float]:
    student = new_student(config)
    started = time.process_time()
    train_stage(student, 1, hospital, config)
    return student, time.process_time() - started


def _score(student: Student, cases: Sequence[CachedCase], config: Settings, mask: str) -> dict[str, list[float]]:
    scores = [score_case(student, cached, config) for cached in cases]
    return {metric: [mean_over_regions(case, mask, metric) for case in scores] for metric in _METRICS}


def _rows(
    candidates: Sequence[Candidate],
    trained: Mapping[str, Mapping[int, Trained]],
    cases: Mapping[int, Mapping[str, Sequence[CachedCase]]],
) -> list[dict[str, Any]]:
    """Return one row per candidate, with 95 % intervals of its difference from the refined mask, paired by case."""
    rows: list[dict[str, Any]] = [
        {
            "title": candidate.title,
            "coarse_channels": list(candidate.config.network.coarse_channels),
            "steps": candidate.config.training.steps_per_stage,
            "item_flops": (refined_flops if candidate.mask == "refined" else coarse_flops)(candidate.config),
            "training_cpu_s": [one.cpu_s for one in trained[candidate.title].values()],
            "cases": {str(seed): one.scores for seed, one in trained[candidate.title].items()},
            "mean": {},
            "refined_minus": {},
        }
        for candidate in candidates
    ]
    for group in _GROUPS:
        patients = {seed: {group: [c.case.patient for c in own[group]]} for seed, own in cases.items()}
        draws = Resampling(patients, shared_patients=group == "others")
        for metric in _METRICS:
            estimates = [_estimate(draws, trained[row["title"]], patients, group, metric) for row in rows]
            for row, estimate in zip(rows, estimates, strict=True):
                row["mean"].setdefault(group, {})[metric] = estimate.value
                difference = (estimates[0] - estimate).interval().to_dict()
                row["refined_minus"].setdefault(group, {})[metric] = difference
    return rows


def _estimate(
    draws: Resampling,
    by_seed: Mapping[int, Trained],
    patients: Mapping[int, Mapping[str, Sequence[str]]],
    group: str,
    metric: str,
) -> Estimate:
    estimate = draws.estimates(
        {
            seed: StreamScores(
                {group: np.array([one.scores[group][metric]])}, patients[seed], {group: 0}, metric == "dice"
            )
            for seed, one in by_seed.items()
        }
    )["final"]
    assert estimate is not None  # every stream has a final score
    return estimate


def _print(console: Console, report: Mapping[str, Any]) -> None:
    about, config = report["machine"], report["config"]
    for group, name in _GROUPS.items():
        counts = ", ".join(map(str, report["cases a seed"][group]))
        table = Table(
            "network", "steps", "CPU s", "GFLOPs", "Dice % by seed", "mean", "HD95 mm", "refined − it",
            title=f"{report['data']}, {name}: {counts} cases of seeds {', '.join(map(str, report['seeds']))}; "
            f"{config['profile']}, {config['network']['precision']}, one thread; {about['cpu']}, "
            f"torch {about['torch']}",
        )  # fmt: skip
        for row in report["rows"]:
            by_seed = [100 * np.mean(scores[group]["dice"]) for scores in row["cases"].values()]
            mean, features = row["mean"][group], ", ".join(map(str, row["coarse_channels"]))
            table.add_row(
                f"{row['title']} ({features})", str(row["steps"]),
                f"{np.mean(row['training_cpu_s']):.0f}", f"{row['item_flops'] / 1e9:.2f}",
                ", ".join(f"{dice:.1f}" for dice in by_seed), f"{100 * mean['dice']:.1f}", f"{mean['hd95']:.1f}",
                "" if row is report["rows"][0] else _interval(row["refined_minus"][group]["dice"]),
            )  # fmt: skip
        print_table(console, table)
    console.print(
        f"The refined mask takes K = {config['scoring']['sampling_steps']} steps. GFLOPs are for one item's prediction "
        "(slice or volume), CPU s for training, averaged over seeds. Coarse networks alone are trained with a refiner "
        "of 8 features per level, whose cost is in their CPU seconds. Differences are Dice points, paired by case, "
        "with 95 % intervals over seeds and patients."
    )


def _interval(difference: Mapping[str, float | None]) -> str:
    value, low, high = (None if end is None else 100 * end for end in difference.values())
    return f"{value:+.1f}" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")
