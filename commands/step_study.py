"""The study of K: how many sampling steps the refiner needs, on finished students. Nothing is trained for it."""

import time
from typing import Any

import numpy as np

from commands.simulation import CASES
from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.studies import FirstHospital, Study, StudyRuns, plain_series
from fedserdiff.config import ExperimentConfig
from fedserdiff.device import use_device
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.model_file import load_student
from fedserdiff.threads import use_cpus
from sites.evaluation import predict_case, score_prediction
from sites.hospital import open_hospital

_STEPS = (1, 2, 4, 8, 16)
_METHOD = "ser-diff"


def _variants(config: ExperimentConfig, first: FirstHospital) -> dict[str, ExperimentConfig]:
    return {_METHOD: config.replace(method=_METHOD)}


def _describe(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    """Score the final student of each seed's run on every site's test cases, once for every K.

    Seconds are those of predicting one test volume, mean over cases; scoring is apart, and so is the first case of
    each K, which warms up.
    """
    rows, dice, seconds = [], [], []
    coarse: dict[str, float] = {}
    for steps in _STEPS:
        means, taken = [], []
        for run in runs[_METHOD].values():
            scores, each = _score(run, steps)
            means.append(scores)
            taken += each
        mean = {name: float(np.mean([m[name] for m in means])) for name in means[0]}
        coarse = {name: value for name, value in mean.items() if name.startswith("coarse")}
        dice.append(100 * mean["refined.dice"])
        seconds.append(float(np.mean(taken)))
        rows.append([steps, dice[-1], mean["refined.hd95"], f"{seconds[-1]:.2f}"])
    rows.insert(0, ["0 (coarse mask)", 100 * coarse["coarse.dice"], coarse["coarse.hd95"], None])
    best = int(np.argmax(dice))
    config = next(iter(runs[_METHOD].values())).config
    threads = f"{config.cpus_per_site:g} CPU{'s' if config.cpus_per_site > 1 else ''}"
    computed_on = threads if use_device(config.gpus_per_site).type == "cpu" else "a GPU"
    return {
        "columns": ["K", "mean Dice %", "HD95 mm", "seconds a volume"],
        "rows": rows,
        "plot": {
            "kind": "scatter",
            "x_label": f"seconds a volume ({computed_on})",
            "y_label": "mean Dice % over sites",
            "log_x": False,
            "series": [plain_series("refined mask", seconds, dice, [f"K = {steps}" for steps in _STEPS])],
        },
        "sentences": [
            f"Dice is highest at K = {_STEPS[best]}: {dice[best]:.1f} %, in {seconds[best]:.2f} s a volume; "
            f"K = {_STEPS[-1]} has {dice[-1]:.1f} %, in {seconds[-1]:.2f} s.",
            f"The coarse mask alone has {100 * coarse['coarse.dice']:.1f} %: "
            + ("no K beats it here." if 100 * coarse["coarse.dice"] >= dice[best] else "refining beats it."),
        ],
    }


def _score(run: RunRecord, steps: int) -> tuple[dict[str, float], list[float]]:
    """Return one student's mean scores over sites with K = `steps`, and the seconds of each volume but the first."""
    config = run.config.replace(sampling_steps=steps)
    use_cpus(config.cpus_per_site)
    student = load_student(config, run.path / "student.pt").to(use_device(config.gpus_per_site))
    by_site, seconds = [], []
    for site in config.sites:
        cases = []
        for cached in open_hospital(site, config, CASES).test:
            started = time.monotonic()
            prediction = predict_case(student, cached, config)
            seconds.append(time.monotonic() - started)
            scores = score_prediction(prediction, cached)
            cases.append(
                {
                    f"{mask}.{metric}": mean_over_regions(scores, mask, metric)
                    for mask in ("coarse", "refined")
                    for metric in ("dice", "hd95")
                }
            )
        by_site.append({name: np.mean([case[name] for case in cases]) for name in cases[0]})
    return {name: float(np.mean([site[name] for site in by_site])) for name in by_site[0]}, seconds[1:]


STEPS = Study(
    "steps",
    "Sampling steps",
    "How many DDIM steps does a refined mask need, and what do they cost?",
    _variants,
    _describe,
)
