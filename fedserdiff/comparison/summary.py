"""Comparison of methods: means over seeds with intervals, and verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.sentences import answer, notes
from fedserdiff.comparison.verdicts import compared
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Estimate, Resampling, StreamScores
from fedserdiff.evaluation.fairness import fairness
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.methods import get_method, label
from fedserdiff.methods.method import Method

Runs = Mapping[str, Mapping[int, RunRecord]]
"""Finished runs by method and seed."""

RAW_SCANS = "raw-scans"
"""Kind of bytes that a method which breaks privacy reads from other hospitals' disks; no record on the wire."""

_STREAM = ("bwt", "fwt", "forgetting")


@dataclass(frozen=True)
class Data:
    """The data of a comparison: its `name`, whether it is phantom data, and the cases of patients who were there
    already.

    These cases were either `left_out` or `kept`. If they were kept, `leak` is the warning about the scores.
    """

    name: str
    phantom: bool
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    leak: str | None = None


def compare_runs(runs: Runs, data: Data) -> dict[str, Any]:
    """Return the contents of ``comparison.json``.

    Dice is a fraction and HD95 is in mm throughout. Both are means over the sites' scored cases and the seeds, with 95
    % intervals from a bootstrap over seeds and patients (`fedserdiff.evaluation.bootstrap`).

    Raises
    ------
    ConfigError
        If runs differ in their seeds or scored patients and cannot be compared.
    """
    one = next(iter(next(iter(runs.values())).values()))
    seeds = sorted(next(iter(runs.values())))
    draws = _draws(_scores(runs, "dice"), data.phantom)
    estimates = _by_metric(runs, draws)
    regions = {
        region: _paired(
            {name: {s: r.dice_by_region[region] for s, r in of.items()} for name, of in runs.items()}, draws
        )
        for region in one.dice_by_region
    }
    about = {
        "name": data.name,
        "phantom": data.phantom,
        "stream": one.config.data.phantom_stream if data.phantom else None,
        "profile": one.config.profile,
        "sites": one.results["sites"],
        "releases": [site.release for site in one.config.sites],
        "cases": one.results["cases"],
        "seeds": seeds,
        "left_out": list(data.left_out),
        "kept": list(data.kept),
        "leak": data.leak,
    }
    scored = one.config.scoring.patients
    methods = [
        _method(name, runs[name], estimates[name], {region: of[name]["final"] for region, of in regions.items()})
        for name in runs
    ]
    worst = {method["name"]: method["fairness"]["worst_site"] for method in methods}
    recognising = [method["name"] for method in methods if method["scores"]["known_origin"]]
    return {
        "data": about,
        "scored": scored,
        "versions": dict(one.versions),
        "methods": methods,
        "verdicts": _verdicts(estimates),
        "answer": answer(estimates, recognising, worst, about, scored),
        "notes": notes(about, scored, [run for by_seed in runs.values() for run in by_seed.values()]),
    }


def estimates_by_metric(runs: Runs, phantom: bool) -> dict[str, dict[str, dict[str, Estimate | None]]]:
    """Return estimates of whole runs by name, metric (``dice``, ``hd95``) and statistic, as `paired_estimates`."""
    return _by_metric(runs, _draws(_scores(runs, "dice"), phantom))


def _by_metric(runs: Runs, draws: Resampling) -> dict[str, dict[str, dict[str, Estimate | None]]]:
    """Return estimates by name, metric and statistic; ``known`` is the final score if the origin of scans is known.

    The final score, the worst site's and the spread are of scans of unknown origin if a run has scored those; the
    other statistics are of the stream.
    """
    by_metric = {}
    for metric in ("dice", "hd95"):
        streams = _paired(_scores(runs, metric), draws)
        ends = _paired({name: {s: r.at_end[metric] for s, r in of.items()} for name, of in runs.items()}, draws)
        by_metric[metric] = {
            name: {**ends[name], "known": streams[name]["final"], **{key: streams[name][key] for key in _STREAM}}
            for name in runs
        }
    return {name: {metric: of_metric[name] for metric, of_metric in by_metric.items()} for name in runs}


def _scores(runs: Runs, metric: str) -> dict[str, dict[int, StreamScores]]:
    return {name: {seed: run.scores[metric] for seed, run in by_seed.items()} for name, by_seed in runs.items()}


def paired_estimates(
    runs: Mapping[str, Mapping[int, StreamScores]], phantom: bool
) -> dict[str, dict[str, Estimate | None]]:
    """Return estimates by name and statistic from runs by name and seed; replicates are paired across names.

    Raises
    ------
    ConfigError
        If runs differ in their seeds or scored patients.
    """
    return _paired(runs, _draws(runs, phantom))


def _draws(runs: Mapping[str, Mapping[int, StreamScores]], phantom: bool) -> Resampling:
    """Return draws of the seeds and patients of the first of `runs`; the others must have the same."""
    patients = {seed: one.patients for seed, one in next(iter(runs.values())).items()}
    return Resampling(patients, shared_patients=not phantom)


def _paired(runs: Mapping[str, Mapping[int, StreamScores]], draws: Resampling) -> dict[str, dict[str, Estimate | None]]:
    try:
        return {name: draws.estimates(by_seed) for name, by_seed in runs.items()}
    except ValueError as error:
        raise ConfigError(f"these runs cannot be compared: {error}") from None


def _method(
    name: str, by_seed: Mapping[int, RunRecord], estimates: Mapping[str, Any], by_region: Mapping[str, Any]
) -> dict[str, Any]:
    records = list(by_seed.values())
    results = [record.results for record in records]
    method = get_method(name)
    dice = estimates["dice"]
    per_site = {
        metric: dict(
            zip(
                results[0]["sites"],
                np.mean([record.final(metric) for record in records], axis=0).tolist(),
                strict=True,
            )
        )
        for metric in ("dice", "hd95")
    }
    recognising = all(record.unknown_origin for record in records)
    kinds = sorted({kind for r in results for sent in r["bytes_out"].values() for kind in sent})
    if not method.federated:
        kinds = [kind for kind in kinds if kind == RAW_SCANS]
    return {
        "name": name,
        "summary": method.summary,
        "group": method.group,
        "needs": _needs(method),
        "breaks_privacy": method.breaks_privacy,
        "seeds": sorted(by_seed),
        "scores": {
            "dice": dice["final"].interval().to_dict(),
            "known_origin": dice["known"].interval().to_dict() if recognising else None,
            "hd95": estimates["hd95"]["final"].interval().to_dict(),
            **{k: None if dice[k] is None else dice[k].interval().to_dict() for k in _STREAM},
        },
        "fairness": {
            "worst_site": fairness(per_site["dice"]).worst_site,
            "worst": dice["worst"].interval().to_dict(),
            "spread": dice["spread"].interval().to_dict(),
        },
        "dice_by_region": {region: estimate.interval().to_dict() for region, estimate in by_region.items()},
        "per_site": per_site,
        "R": {m: _mean_matrix([r["R"][m]["mean"] for r in results]) for m in ("dice", "hd95")},
        "curves": [curve for seed, record in sorted(by_seed.items()) for curve in _curves(seed, record)],
        "stages": results[0]["stages"],
        "deployed": results[0]["deployed"],
        "arrivals": results[0]["arrivals"],
        "bytes_out": {
            kind: float(np.mean([sum(sent.get(kind, 0) for sent in r["bytes_out"].values()) for r in results]))
            for kind in kinds
        },
        "minutes": float(np.mean([record.seconds for record in records])) / 60,
    }


def _mean_matrix(matrices: Sequence[Sequence[Sequence[float | None]]]) -> list[list[float | None]]:
    """Return the mean of R's over seeds; None where a site had left."""
    mean = np.mean(np.asarray(matrices, float), axis=0)
    return [[None if np.isnan(value) else value for value in row] for row in mean.tolist()]


def _needs(method: Method) -> list[str]:
    """Return what a method needs to know in addition to a hospital's own cases and the students it receives."""
    known = (
        (method.breaks_privacy, "raw data of other hospitals"),
        (method.knows_origin, "which hospital a scan comes from"),
    )
    return [what for needed, what in known if needed]


def _curves(seed: int, record: RunRecord) -> list[dict[str, Any]]:
    """Return a run's validation curves by site and stage: mean refined Dice at steps of the stage."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in record.results["curves"]:
        place = (row["site"], row["stage"])
        curve = found.setdefault(place, {"seed": seed, "site": place[0], "stage": place[1], "steps": [], "dice": []})
        curve["steps"].append(row["step"])
        curve["dice"].append(mean_over_regions(row, "refined", "dice"))
    return list(found.values())


_ASKED = (
    ("lesion-replay", "fine-tune"),
    ("lesion-replay", "ser-diff"),
    ("lesion-replay", "ser-diff-plus"),
    ("lesion-replay", "rehearsal"),
    ("lesion-replay", "fedavg"),
    ("ser-diff-plus", "fine-tune"),
    ("ser-diff-plus", "ser-diff"),
    ("ser-diff-plus", "rehearsal"),
    ("ser-diff", "fine-tune"),
    ("ser-diff", "distill"),
)
"""Pairs of methods that are always compared: does the first beat the second?"""


def _verdicts(estimates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare final mean Dice of the pairs in `_ASKED`, and of every other method with the simplest one.

    That is ``fedavg`` for other methods that train all hospitals together, if it is there, otherwise ``fine-tune``.
    """
    pairs = dict.fromkeys(_ASKED)
    for name in estimates:
        together = "fedavg" in estimates and get_method(name).group == "together" and name != "fedavg"
        if name != "fine-tune":
            pairs[name, "fedavg" if together else "fine-tune"] = None
    final = {name: by_metric["dice"]["final"] for name, by_metric in estimates.items()}
    return [
        compared(label(one), label(other), final[one] - final[other])
        for one, other in pairs
        if one in final and other in final
    ]
