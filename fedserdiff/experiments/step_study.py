"""The steps study: how many sampling steps K the refiner needs, measured on finished students without training."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.comparison.studies import FirstHospital, Study, StudyRuns, plain_series, required
from fedserdiff.comparison.summary import paired_estimates
from fedserdiff.comparison.verdicts import compared
from fedserdiff.device import use_device
from fedserdiff.evaluation.bootstrap import StreamScores
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.model_file import load_student
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import use_cpus
from sites.evaluation import predict_case, score_prediction
from sites.hospital import open_hospital

_STEPS = (1, 2, 4, 8, 16)
_METHOD = "ser-diff"
_COARSE = "0 (coarse mask)"

_BySite = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Scores by name (``refined.dice``, …) and site: one value for each scored case, ordered by case name."""


def _variants(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    return {_METHOD: config.replace(method=_METHOD)}


def _describe(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    """Score the final student of each seed's run on every site's validation cases, once for every K.

    Seconds are the time to predict one volume, mean over cases. Scoring is not included, nor is the first case of each
    K, which warms up.
    """
    dice: dict[str, dict[int, StreamScores]] = {_COARSE: {}, **{str(steps): {} for steps in _STEPS}}
    hd95: dict[str, list[float]] = {name: [] for name in dice}
    seconds: dict[str, list[float]] = {name: [] for name in dice}
    for steps in _STEPS:
        for seed, run in runs[_METHOD].items():
            scores, taken = _score(run, steps)
            seconds[str(steps)] += taken
            for name, mask in ((_COARSE, "coarse"), (str(steps), "refined")):
                dice[name][seed] = _of_last_row(scores, f"{mask}.dice", run)
                hd95[name].append(float(np.mean([values.mean() for values in scores[f"{mask}.hd95"].values()])))
    final = {name: required(one["final"]) for name, one in paired_estimates(dice, phantom).items()}
    each = {name: float(np.mean(taken)) if taken else None for name, taken in seconds.items()}
    shown = [str(steps) for steps in _STEPS]
    config = next(iter(runs[_METHOD].values())).config
    threads = f"{config.machine.cpus_per_site:g} CPU{'s' if config.machine.cpus_per_site > 1 else ''}"
    computed_on = threads if use_device(config.machine).type == "cpu" else "a GPU"
    return {
        "columns": ["K", "mean Dice % [95 %]", "HD95 mm", "seconds per volume"],
        "rows": [
            [name, interval_text(scaled(final[name], 100)), float(np.mean(hd95[name])), _two_decimals(each[name])]
            for name in dice
        ],
        "plot": {
            "kind": "scatter",
            "x_label": f"seconds per volume ({computed_on})",
            "y_label": "mean Dice % over sites",
            "log_x": False,
            "series": [
                plain_series(
                    "refined mask",
                    [each[name] for name in shown],
                    [100 * final[name].value for name in shown],
                    [f"K = {name}" for name in shown],
                )
            ],
        },
        "sentences": [],
        "verdicts": [
            compared(f"A mask refined in {name} step{'' if name == '1' else 's'}", "the coarse mask",
                     final[name] - final[_COARSE])
            for name in shown
        ],
    }  # fmt: skip


def _two_decimals(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _of_last_row(scores: _BySite, name: str, run: RunRecord) -> StreamScores:
    """Return one score of the final student on every scored case, as a stream with a single row."""
    return StreamScores(
        values={site: values[None] for site, values in scores[name].items()},
        patients=run.patients,
        deployed=dict.fromkeys(scores[name], 0),
        higher_is_better=True,
    )


def _score(run: RunRecord, steps: int) -> tuple[_BySite, list[float]]:
    """Return a student's scores on every scored case with K = `steps`, and each volume's seconds except the first's."""
    config = run.config.replace({"scoring.sampling_steps": steps})
    use_cpus(config.machine.cpus_per_site)
    student = load_student(config, run.path / "student.pt").to(use_device(config.machine))
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    seconds = []
    for site in config.sites:
        cases = []
        scored = open_hospital(site, config, Cache().prepared).scored(config)
        for cached in sorted(scored, key=lambda cached: cached.case.name):
            started = time.monotonic()
            prediction = predict_case(student, cached, config)
            seconds.append(time.monotonic() - started)
            one = score_prediction(prediction, cached, config.scoring)
            cases.append(
                {
                    f"{mask}.{metric}": mean_over_regions(one, mask, metric)
                    for mask in ("coarse", "refined")
                    for metric in ("dice", "hd95")
                }
            )
        for name in cases[0]:
            scores.setdefault(name, {})[site.name] = np.array([case[name] for case in cases])
    return scores, seconds[1:]


STEPS = Study(
    "steps",
    "Sampling steps",
    "How many DDIM steps does a refined mask need, and what do they cost?",
    _variants,
    _describe,
)
