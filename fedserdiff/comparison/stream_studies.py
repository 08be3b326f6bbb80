"""Studies of the stream: the teacher's training data, and the number of hospitals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.comparison.studies import (
    COLUMNS,
    FirstHospital,
    Study,
    StudyRuns,
    cells,
    mean_of,
    outcomes,
    plain_series,
    required,
    series,
)
from fedserdiff.comparison.summary import paired_estimates
from fedserdiff.comparison.verdicts import compared
from fedserdiff.data.cache import CachedCase
from fedserdiff.evaluation.bootstrap import StreamScores
from fedserdiff.settings.experiment import Settings

_SHARES = (0.25, 0.5)
_ALL = "all"


def _teacher_data(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    """Vary the training patients of stage 1: their number, and how much their tumour volumes differ."""
    variants = {}
    for share in _SHARES:
        for diverse in (True, False):
            name = f"{share:.0%}, {'diverse' if diverse else 'alike'}"
            variants[name] = _with_first(config, first, choose_patients(first.training, share, diverse))
    return {**variants, _ALL: config.replace(method="ser-diff")}


def choose_patients(training: Sequence[CachedCase], share: float, diverse: bool) -> set[str]:
    """Choose a share of patients, at least one, by whole-tumour volume (the largest over a patient's cases).

    Diverse patients are spread evenly over the ranking by volume, from smallest to largest. Similar patients are
    neighbours in the middle of the ranking.
    """
    volumes: dict[str, float] = {}
    for cached in training:
        patient = cached.case.patient
        volumes[patient] = max(volumes.get(patient, 0.0), tumour_voxels(cached))
    ranked = sorted(volumes, key=lambda patient: (volumes[patient], patient))
    count = max(1, round(share * len(ranked)))
    if diverse:
        places = np.round(np.linspace(0, len(ranked) - 1, count)).astype(int) if count > 1 else [len(ranked) // 2]
        return {ranked[place] for place in places}
    start = (len(ranked) - count) // 2
    return set(ranked[start : start + count])


def tumour_voxels(cached: CachedCase) -> float:
    """Return the number of voxels of a case's whole tumour on the working grid."""
    return float(cached.prepared.tumour_voxels)


def _with_first(config: Settings, first: FirstHospital, patients: set[str]) -> Settings:
    """Return the config with only these training patients at the first site; held-out patients stay the same."""
    training, validation, test = (
        tuple(sorted(c.case.name for c in cases))
        for cases in ([c for c in first.training if c.case.patient in patients], first.validation, first.test)
    )
    cases = tuple(sorted((*training, *validation, *test)))
    site = replace(config.sites[0], cases=cases, test_cases=test, validation_cases=validation)
    return config.replace(method="ser-diff", sites=(site, *config.sites[1:]))


def _describe_teacher_data(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    first_site = next(iter(runs[_ALL].values())).results["sites"][0]
    patients = {
        name: next(iter(by_seed.values())).results["cases"][first_site]["training"] for name, by_seed in runs.items()
    }
    at_stage_1 = {
        name: mean_of(by_seed, lambda run: run.results["R"]["dice"]["mean"][1][0]) for name, by_seed in runs.items()
    }
    kinds = {kind: [*(f"{share:.0%}, {kind}" for share in _SHARES), _ALL] for kind in ("diverse", "alike")}
    half = f"{_SHARES[-1]:.0%}"
    return {
        "columns": ["patients of stage 1", "training cases", "teacher's Dice % on first site", *COLUMNS],
        "rows": [[name, patients[name], 100 * at_stage_1[name], *cells(o)] for name, o in by_name.items()],
        "plot": {
            "kind": "line",
            "x_label": "training cases of stage 1",
            "y_label": "final mean Dice %",
            "log_x": False,
            "series": [
                series(f"tumour volumes {kind}", [patients[n] for n in names], [by_name[n].dice for n in names])
                for kind, names in kinds.items()
            ],
        },
        "sentences": [],
        "verdicts": [
            compared(
                "The student of a teacher trained on all of the first site's cases",
                f"the student of a teacher trained on {_SHARES[0]:.0%} of them",
                by_name[_ALL].dice - by_name[f"{_SHARES[0]:.0%}, diverse"].dice,
            ),
            compared(
                f"A teacher trained on {half} of the patients, with diverse tumour volumes,",
                "one trained on as many with similar volumes",
                by_name[f"{half}, diverse"].dice - by_name[f"{half}, alike"].dice,
            ),
        ],
    }


_LENGTHS = (3, 5, 10)
_METHODS = ("ser-diff", "fine-tune")


def _stream_length(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    """Halve the stages: if three hospitals take ten minutes, ten then take at most half an hour."""
    shorter = config.replace(
        {
            "training.steps_per_stage": -(-config.training.steps_per_stage // 2),
            "training.epochs_per_stage": -(-config.training.epochs_per_stage // 2),
        }
    )
    return {method: shorter.replace(method=method) for method in _METHODS}


def of_first_sites(scores: StreamScores, count: int) -> StreamScores:
    """Return the scores of the stream of the first `count` sites: a later site changes nothing before it arrives."""
    sites = list(scores.values)[:count]
    return StreamScores(
        values={site: scores.values[site][: count + 1] for site in sites},
        patients={site: scores.patients[site] for site in sites},
        deployed=dict.fromkeys(sites, count),
        higher_is_better=scores.higher_is_better,
    )


def _describe_stream_length(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    whole = len(next(iter(next(iter(runs.values())).values())).results["sites"])
    lengths = sorted({length for length in _LENGTHS if length < whole} | {whole})
    by_length = {
        (length, metric): paired_estimates(
            {
                name: {seed: of_first_sites(run.scores[metric], length) for seed, run in by_seed.items()}
                for name, by_seed in runs.items()
            },
            phantom,
        )
        for length in lengths
        for metric in ("dice", "hd95")
    }
    rows = []
    for length in lengths:
        for method in runs:
            dice, hd95 = (by_length[length, metric][method] for metric in ("dice", "hd95"))
            lost = dice["forgetting"]
            rows.append(
                [
                    length,
                    method,
                    interval_text(scaled(required(dice["final"]), 100)),
                    interval_text(required(hd95["final"])),
                    None if lost is None else interval_text(scaled(lost, 100)),
                ]
            )
    final = {m: [required(by_length[length, "dice"][m]["final"]) for length in lengths] for m in runs}
    forgotten = {m: [by_length[length, "dice"][m]["forgetting"] for length in lengths] for m in runs}
    return {
        "columns": ["sites", "method", "mean Dice % [95 %]", "HD95 mm [95 %]", "forgetting (points) [95 %]"],
        "rows": rows,
        "plot": {
            "kind": "line",
            "x_label": "hospitals in the stream",
            "y_label": "Dice %, forgetting in points",
            "log_x": False,
            "series": [
                *(series(f"{method}: mean Dice", lengths, values) for method, values in final.items()),
                *(
                    plain_series(
                        f"{method}: forgetting",
                        [length for length, v in zip(lengths, values, strict=True) if v is not None],
                        [100 * v.value for v in values if v is not None],
                    )
                    for method, values in forgotten.items()
                ),
            ],
        },
        "sentences": [
            "A shorter stream is the beginning of the longest one, because later hospitals do not change earlier "
            "stages. A stage is half as long as in the comparison."
        ],
        "verdicts": [
            compared(f"After {length} sites, {_METHODS[0]}", _METHODS[1], final[_METHODS[0]][n] - final[_METHODS[1]][n])
            for n, length in enumerate(lengths)
        ],
    }


TEACHER_DATA = Study(
    "teacher-data",
    "The teacher's training data",
    "How many patients, and how diverse ones, does stage 1 need for a useful teacher?",
    _teacher_data,
    _describe_teacher_data,
)
STREAM_LENGTH = Study(
    "stream-length",
    "The length of the stream",
    "What happens to Dice, HD95 and forgetting as more hospitals arrive?",
    _stream_length,
    _describe_stream_length,
    sites=max(_LENGTHS),
)
