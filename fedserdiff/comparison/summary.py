"""Comparison of methods: means over seeds with intervals, and sentences on the cost of not pooling data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.verdicts import compared
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Estimate, Resampling, StreamScores
from fedserdiff.evaluation.departures import departure_notes
from fedserdiff.evaluation.fairness import fairness
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.methods import get_method, label, origin_note
from fedserdiff.methods.method import Method

Runs = Mapping[str, Mapping[int, RunRecord]]
"""Finished runs by method and seed."""

RAW_SCANS = "raw-scans"
"""Kind of bytes that a method which breaks privacy reads from other hospitals' disks; no record on the wire."""

_REPLICATES = 2000
_STREAM = ("bwt", "fwt", "forgetting")
_NAMED = 3
"""Largest number of methods that a sentence lists one by one."""


def one_seed(scored: str) -> str:
    """Return the caveat on results from a single seed; `scored` is ``test`` or ``validation``."""
    return (
        f"One seed: intervals cover only the variation over {scored} patients, not the variation of training from seed "
        "to seed."
    )


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
    return {
        "data": about,
        "scored": scored,
        "versions": dict(one.versions),
        "methods": methods,
        "verdicts": _verdicts(estimates),
        "answer": answer(estimates, worst, about, scored),
        "notes": _notes(about, scored, [run for by_seed in runs.values() for run in by_seed.values()]),
    }


def estimates_by_metric(runs: Runs, phantom: bool) -> dict[str, dict[str, dict[str, Estimate | None]]]:
    """Return estimates of whole runs by name, metric (``dice``, ``hd95``) and statistic, as `paired_estimates`."""
    return _by_metric(runs, _draws(_scores(runs, "dice"), phantom))


def _by_metric(runs: Runs, draws: Resampling) -> dict[str, dict[str, dict[str, Estimate | None]]]:
    by_metric = {metric: _paired(_scores(runs, metric), draws) for metric in ("dice", "hd95")}
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
    return Resampling(patients, shared_patients=not phantom, replicates=_REPLICATES)


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


def answer(
    estimates: Mapping[str, Any], worst_sites: Mapping[str, str], about: Mapping[str, Any], scored: str
) -> list[str]:
    """Return the comparison's main results as sentences with figures, without its verdicts."""
    final = {name: by_metric["dice"]["final"] for name, by_metric in estimates.items()}
    ends = {
        name: f"{_percent(final[name])} mean Dice (worst hospital "
        f"{worst_sites[name]}: {_percent(by_metric['dice']['worst'])})"
        for name, by_metric in estimates.items()
    }
    sentences = []
    if "pooled" in final and "fine-tune" in final:
        loss = final["pooled"] - final["fine-tune"]
        sentences.append(
            f"Pooling all raw scans ends at {ends['pooled']}. Fine-tuning the model at one hospital after another, "
            f"without anything against forgetting, ends at {ends['fine-tune']}. Not pooling therefore costs "
            f"{_points(loss)} points."
        )
        sentences += _regained(final, loss)
    else:
        sentences.append(_ends(final, ends))
    if note := origin_note(final):
        sentences.append(note)
    return sentences if len(about["seeds"]) > 1 else [*sentences, one_seed(scored)]


def _ends(final: Mapping[str, Estimate], ends: Mapping[str, str]) -> str:
    """Return where each method ends or, for many methods, the best one that needs no raw data, if there is one."""
    if len(final) <= _NAMED:
        return " ".join(f"{label(name)} ends at {end}." for name, end in ends.items())
    private = [name for name in final if not get_method(name).breaks_privacy]
    best = max(private or final, key=lambda name: final[name].value)
    which = "that need no raw data of other hospitals" if private else "that break privacy"
    return f"Among {len(private or final)} methods {which}, {best} ends highest, at {ends[best]}."


def _regained(final: Mapping[str, Estimate], loss: Estimate) -> list[str]:
    """Return the share of the loss from not pooling that each method recovers, if the loss is clearly above 0."""
    low = loss.interval().low
    if low is None or low <= 0:
        return [
            "How much other methods recover of this loss cannot be computed: its interval includes 0, or there is no "
            "interval."
        ]
    shares = {}
    for name, estimate in final.items():
        if name not in ("pooled", "fine-tune"):
            gain = estimate - final["fine-tune"]
            share = replace(
                gain, value=100 * gain.value / loss.value, replicates=100 * gain.replicates / loss.replicates
            )
            shares[label(name)] = interval_text(share, " %", decimals=0)
    if not shares:
        return []
    return [
        "Share of this loss that methods recover: "
        + "; ".join(f"{name} {share}" for name, share in shares.items())
        + "."
    ]


def interval_text(estimate: Estimate, unit: str = "", decimals: int = 1) -> str:
    """Return a value with its 95 % interval, if there is one, such as ``56.5 % [49.1, 62.0]``."""
    interval = estimate.interval()
    style = f".{decimals}f"
    ends = "" if interval.low is None else f" [{interval.low:{style}}, {interval.high:{style}}]"
    return _minus(f"{interval.value:{style}}{unit}{ends}")


def _percent(estimate: Estimate) -> str:
    return interval_text(scaled(estimate, 100), " %")


def _points(estimate: Estimate) -> str:
    return interval_text(scaled(estimate, 100))


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """Return an estimate in other units, such as a fraction in per cent."""
    return replace(estimate, value=factor * estimate.value, replicates=factor * estimate.replicates)


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _notes(about: Mapping[str, Any], scored: str, runs: Sequence[RunRecord]) -> list[str]:
    seeds: Sequence[int] = about["seeds"]
    drawn = f"{scored} patients"
    drawn = f"seeds and {drawn}" if len(seeds) > 1 else f"{drawn} only, because there is one seed"
    cpus = sorted({run.config.machine.cpus_per_site for run in runs})
    on_gpu = sorted({run.path.name for run in runs if run.config.machine.gpus_per_site})
    few = [site for site, count in about["cases"].items() if count[scored] < 2]
    notes = [
        f"Values in brackets are 95 % intervals from {_REPLICATES} bootstrap replicates over {drawn}; every method is "
        "scored on the same draws."
        + (f" There are none if a site has a single {scored} patient, as {', '.join(few)} here." if few else ""),
        f"Dice and HD95 are those of the refined masks on whole {scored} volumes, means over regions, cases and "
        "sites. A tumour region that is missed or false positive scores Dice 0 and the volume's diagonal as HD95.",
        f"Minutes are computation on {' or '.join(f'{count:g}' for count in cpus)} CPU{'' if cpus == [1] else 's'} "
        "for each run. A stage 1 that several methods share was computed once and counts for each of them.",
        "Bytes are those that left all hospitals in a run, by kind of record. raw-scans are files that a method "
        "which breaks privacy takes from other hospitals; a simulation reads them from disk. For methods without a "
        "federation (local, pooled) nothing else is counted: their students travel only to be scored.",
    ]
    notes.insert(
        2,
        "The worst hospital is the one with the lowest mean Dice at the end, over regions, patients and seeds; it "
        "may differ between replicates. The spread is the standard deviation of that mean over hospitals (population "
        "formula). Chance lowers a minimum and widens a spread, so both intervals are slightly pessimistic.",
    )
    notes += departure_notes(next((d for run in runs if (d := run.results["departures"])), ()))
    if len(seeds) > 1:
        notes.append(
            f"Few seeds understate the variance between seeds: {len(seeds)} show {len(seeds) - 1}/{len(seeds)} of it. "
            "Forgetting takes a maximum over stages, which resampling raises, so its interval is slightly too high."
        )
    if 0 < len(on_gpu) < len({run.path.name for run in runs}):
        notes.append(
            "Some runs were computed on a GPU and the others on CPUs, whose last digits differ. On a GPU: "
            f"{', '.join(on_gpu)}."
        )
    return notes
