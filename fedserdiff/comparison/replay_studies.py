"""Studies of replay: what is replayed, with which weight, and with how much noise."""

from typing import Any

from fedserdiff.comparison.studies import (
    COLUMNS,
    FirstHospital,
    Outcome,
    Study,
    StudyRuns,
    cells,
    outcomes,
    plain_series,
    series,
)
from fedserdiff.comparison.verdicts import compared
from fedserdiff.settings.experiment import Settings

_NULL, _MRI, _NONE = (f"error maps, {shared} shared" for shared in ("null", "mri", "none"))
_IMAGES, _FEATURES, _NOTHING = "synthetic images (image-replay)", "features only (distill)", "nothing (fine-tune)"
_SYNTHETIC = ("error-maps", "synthetic-images")


def _ablation(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    return {
        _NULL: config.replace({"method.shared_error_maps": "null"}, method="ser-diff"),
        _MRI: config.replace({"method.shared_error_maps": "mri"}, method="ser-diff"),
        _NONE: config.replace({"method.shared_error_maps": "none"}, method="ser-diff"),
        _IMAGES: config.replace(method="image-replay"),
        _FEATURES: config.replace(method="distill"),
        _NOTHING: config.replace(method="fine-tune"),
    }


def _describe_ablation(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    rows = []
    for name, outcome in by_name.items():
        run = next(iter(runs[name].values()))
        kept = sum(
            size for sent in run.results["bytes_out"].values() for kind, size in sent.items() if kind in _SYNTHETIC
        )
        rows.append([name, *cells(outcome), f"{kept / 1e6:.2f}"])
    return {
        "columns": ["replayed", *COLUMNS, "samples sent, MB"],
        "rows": rows,
        "plot": {
            "kind": "bars",
            "x_label": "what is replayed",
            "y_label": "final mean Dice %",
            "log_x": False,
            "series": [series("mean over sites", list(by_name), [o.dice for o in by_name.values()])],
        },
        "sentences": [],
        "verdicts": [
            _against(by_name, _NULL, _NOTHING, "Replaying error maps", "replaying nothing (fine-tune)"),
            _against(by_name, _NULL, _FEATURES, "Replaying error maps", "distilling on the new scans only (distill)"),
            _against(by_name, _NULL, _IMAGES, "Replaying error maps", "replaying full synthetic images"),
            _against(by_name, _NULL, _NONE, "Sharing null maps", "sharing none"),
            _against(by_name, _MRI, _NULL, "Sharing maps conditioned on scans", "sharing null maps"),
        ],
    }


def _against(by_name: dict[str, Outcome], a: str, b: str, first: str, second: str) -> dict[str, Any]:
    return compared(first, second, by_name[a].dice - by_name[b].dice)


_LAMBDAS = (0.0, 0.1, 0.5, 1.0, 2.0)


def _lambda(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    """Vary λ. λ = 0 gives exactly fine-tuning, so it is run as fine-tune."""
    runs = {f"{value:g}": config.replace({"method.lambda_kd": value}, method="ser-diff") for value in _LAMBDAS}
    return {**runs, "0": config.replace(method="fine-tune")}


def _describe_lambda(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    least, most = (by_name[f"{_LAMBDAS[place]:g}"] for place in (0, -1))
    best = max(by_name, key=lambda name: by_name[name].dice.value)
    return {
        "columns": ["λ", *COLUMNS],
        "rows": [[name, *cells(outcome)] for name, outcome in by_name.items()],
        "plot": {
            "kind": "scatter",
            "x_label": "final Dice % on the last site",
            "y_label": "final Dice % on the first site",
            "log_x": False,
            "series": [
                plain_series(
                    "ser-diff",
                    [100 * o.last for o in by_name.values()],
                    [100 * o.first for o in by_name.values()],
                    [f"λ = {name}" for name in by_name],
                )
            ],
        },
        "verdicts": [],
        "sentences": [
            f"From λ = {_LAMBDAS[0]:g} (fine-tuning) to λ = {_LAMBDAS[-1]:g}, Dice on the first site goes from "
            f"{100 * least.first:.1f} to {100 * most.first:.1f} %, and on the last site from {100 * least.last:.1f} "
            f"to {100 * most.last:.1f} %.",
            f"The mean over sites is highest at λ = {best}: {100 * by_name[best].dice.value:.1f} %. These are scores "
            "of validation patients, so λ may be chosen by them; no test patient was scored.",
        ],
    }


_NOISES = (0.0, 0.1, 0.3, 1.0)
_NO_MAPS = "no maps (distill)"


def _teacher_noise(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    runs = {f"{value:g}": config.replace({"replay.map_noise": value}, method="ser-diff") for value in _NOISES}
    return {**runs, _NO_MAPS: config.replace(method="distill")}


def _describe_teacher_noise(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    noisy = {value: by_name[f"{value:g}"] for value in _NOISES}
    harm = noisy[_NOISES[-1]].dice - noisy[0.0].dice
    return {
        "columns": ["noise (σ)", *COLUMNS],
        "rows": [[name, *cells(outcome)] for name, outcome in by_name.items()],
        "plot": {
            "kind": "line",
            "x_label": "σ of the noise in every replayed error map",
            "y_label": "final Dice %",
            "log_x": False,
            "series": [
                series("mean over sites", list(noisy), [o.dice for o in noisy.values()]),
                plain_series("first site", list(noisy), [100 * o.first for o in noisy.values()]),
                plain_series("last site", list(noisy), [100 * o.last for o in noisy.values()]),
            ],
        },
        "sentences": [],
        "verdicts": [
            compared(
                f"The student trained on maps with noise of σ = {_NOISES[-1]:g}",
                "the student trained on clean maps",
                harm,
            ),
            compared(
                "The student trained on clean maps",
                "the student without maps (distill)",
                noisy[0.0].dice - by_name[_NO_MAPS].dice,
            ),
        ],
    }


ABLATION = Study(
    "ablation",
    "What is replayed, and what is shared",
    "Do replayed error maps retain more than full synthetic images, or than no replay? Which maps need to be shared?",
    _ablation,
    _describe_ablation,
)
LAMBDA = Study(
    "lambda",
    "The weight of distillation",
    "How does λ trade Dice on the first site against Dice on the last?",
    _lambda,
    _describe_lambda,
)
TEACHER_NOISE = Study(
    "teacher-noise",
    "Noise in the error maps",
    "How does a worse teacher affect its student? Gaussian noise is added to every replayed map.",
    _teacher_noise,
    _describe_teacher_noise,
)
