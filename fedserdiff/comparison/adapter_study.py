"""The adapter study: what each part of SER-Diff+ contributes."""

from typing import Any

from fedserdiff.comparison.studies import COLUMNS, FirstHospital, Study, StudyRuns, cells, outcomes, series
from fedserdiff.comparison.verdicts import compared
from fedserdiff.settings.experiment import Settings

_WHOLE, _MAPS = "ser-diff-plus", "with shared error maps, replayed"
_NO_KD, _NO_ADAPTER = "no distillation (λ = 0)", "no adapter"


def _variants(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    whole = config.replace(method="ser-diff-plus")
    return {
        _WHOLE: whole,
        _MAPS: whole.replace({"method.shared_error_maps": "null"}),
        _NO_KD: whole.replace({"method.lambda_kd": 0.0}),
        _NO_ADAPTER: whole.replace({"method.inversion_steps": 0}),
    }


def _describe(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    whole = by_name[_WHOLE].dice
    return {
        "columns": ["variant", *COLUMNS],
        "rows": [[name, *cells(outcome)] for name, outcome in by_name.items()],
        "plot": {
            "kind": "bars",
            "x_label": "variant of ser-diff-plus",
            "y_label": "final mean Dice %",
            "log_x": False,
            "series": [series("mean over sites", list(by_name), [o.dice for o in by_name.values()])],
        },
        "sentences": [],
        "verdicts": [
            compared("SER-Diff+", "the same without its adapter", whole - by_name[_NO_ADAPTER].dice),
            compared("SER-Diff+", "the same without distillation", whole - by_name[_NO_KD].dice),
            compared("SER-Diff+ with replayed error maps", "the same without", by_name[_MAPS].dice - whole),
        ],
    }


ADAPTER = Study(
    "adapter",
    "The parts of SER-Diff+",
    "What do the site adapter, distillation and shared error maps each contribute to SER-Diff+?",
    _variants,
    _describe,
)
