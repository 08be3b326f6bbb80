"""The sentences of a comparison: its main results, and notes on what its figures mean."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedserdiff.comparison.records import RunRecord
from fedserdiff.evaluation.bootstrap import REPLICATES, Estimate
from fedserdiff.evaluation.departures import departure_notes
from fedserdiff.methods import get_method, label, origin_note, recognition_note

_NAMED = 3
"""Largest number of methods that a sentence lists one by one."""


def one_seed(scored: str) -> str:
    """Return the caveat on results from a single seed; `scored` is ``test`` or ``validation``."""
    return (
        f"One seed: intervals cover only the variation over {scored} patients, not the variation of training from seed "
        "to seed."
    )


def answer(
    estimates: Mapping[str, Any],
    recognising: Collection[str],
    worst_sites: Mapping[str, str],
    about: Mapping[str, Any],
    scored: str,
) -> list[str]:
    """Return the comparison's main results as sentences with figures, without its verdicts.

    Methods that are `recognising` have final scores of scans of unknown origin.
    """
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
    if note := origin_note(name for name in final if name not in recognising):
        sentences.append(note)
    if recognising:
        known = "; ".join(f"{name} {_percent(estimates[name]['dice']['known'])}" for name in recognising)
        sentences.append(
            f"{recognition_note(recognising)} Their final scores are of such scans. With the hospital known, mean "
            f"Dice is: {known}. BWT, FWT, forgetting and R assume that it is known."
        )
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


def notes(about: Mapping[str, Any], scored: str, runs: Sequence[RunRecord]) -> list[str]:
    seeds: Sequence[int] = about["seeds"]
    drawn = f"{scored} patients"
    drawn = f"seeds and {drawn}" if len(seeds) > 1 else f"{drawn} only, because there is one seed"
    cpus = sorted({run.config.machine.cpus_per_site for run in runs})
    on_gpu = sorted({run.path.name for run in runs if run.config.machine.gpus_per_site})
    few = [site for site, count in about["cases"].items() if count[scored] < 2]
    told = [
        f"Values in brackets are 95 % intervals from {REPLICATES} bootstrap replicates over {drawn}; every method is "
        "scored on the same draws."
        + (f" There are none if a site has a single {scored} patient, as {', '.join(few)} here." if few else ""),
        f"Dice and HD95 are those of the refined masks on whole {scored} volumes, means over regions, cases and "
        "sites. A tumour region that is missed or false positive scores Dice 0 and the volume's diagonal as HD95.",
        "The worst hospital is the one with the lowest mean Dice at the end, over regions, patients and seeds; it "
        "may differ between replicates. The spread is the standard deviation of that mean over hospitals (population "
        "formula). Chance lowers a minimum and widens a spread, so both intervals are slightly pessimistic.",
        f"Minutes are computation on {' or '.join(f'{count:g}' for count in cpus)} CPU{'' if cpus == [1] else 's'} "
        "for each run. A stage 1 that several methods share was computed once and counts for each of them.",
        "Bytes are those that left all hospitals in a run, by kind of record. raw-scans are files that a method "
        "which breaks privacy takes from other hospitals; a simulation reads them from disk. For methods without a "
        "federation (local, pooled) nothing else is counted: their students travel only to be scored.",
    ]
    told += departure_notes(next((d for run in runs if (d := run.results["departures"])), ()))
    if len(seeds) > 1:
        told.append(
            f"Few seeds understate the variance between seeds: {len(seeds)} show {len(seeds) - 1}/{len(seeds)} of it. "
            "Forgetting takes a maximum over stages, which resampling raises, so its interval is slightly too high."
        )
    if 0 < len(on_gpu) < len({run.path.name for run in runs}):
        told.append(
            "Some runs were computed on a GPU and the others on CPUs, whose last digits differ. On a GPU: "
            f"{', '.join(on_gpu)}."
        )
    return told
