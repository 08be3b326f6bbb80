"""Verdicts on which of two is better, from paired differences and corrected for the number of comparisons.

The decision "beats" is sometimes wrong. With many comparisons, errors become likely unless the threshold is raised.
Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979) keeps the chance of any wrong decision below 5
%.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.evaluation.bootstrap import Estimate

LEAST_SEEDS = 3
"""Smallest number of seeds for a verdict; with fewer, the variation of training is unknown (our choice)."""

LEVEL = 0.05


def compared(first: str, second: str, difference: Estimate) -> dict[str, Any]:
    """Return a comparison that `judge` turns into a verdict, JSON-ready.

    Parameters
    ----------
    first, second : str
        The two things compared, as they are named in a sentence.
    difference : Estimate
        Mean Dice of the first minus that of the second, as a fraction; a paired estimate.

    Returns
    -------
    dict
        ``first``, ``second``; ``value`` with its uncorrected 95 % interval ``low`` and ``high``, in points of Dice; the
        number of ``seeds`` and ``patients``; ``p``, or None if no test is possible.
    """
    interval = difference.interval()
    ends = {
        name: None if end is None else 100 * end
        for name, end in (("value", interval.value), ("low", interval.low), ("high", interval.high))
    }
    seeds, patients = difference.sample.seeds, difference.sample.patients
    told = interval.low is not None and seeds >= LEAST_SEEDS
    p = p_value(difference.replicates) if told else None
    return {"first": first, "second": second, **ends, "seeds": seeds, "patients": patients, "p": p}


def p_value(replicates: NDArray[np.float64]) -> float:
    """Return the two-sided p-value for a difference of 0, from bootstrap replicates of the difference.

    It is twice the share of replicates on the less frequent side of 0. One is added to both counts, so that p is never
    0 (Davison and Hinkley, Bootstrap Methods and their Application, 1997, §4.2). It falls below 5 % if the 95 %
    percentile interval excludes 0.
    """
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down procedure for the number of comparisons, in the given order."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = least
    return adjusted


def judge(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return results with their ``verdicts`` in words, corrected for the comparisons in all results together.

    A result is the contents of a ``comparison.json`` or of a study's file; its ``scored`` says whether ``test`` or
    ``validation`` patients were scored. Each verdict from `compared` gets ``p_adjusted`` and ``text``. ``rule``
    explains how verdicts are reached, and is empty if there are none.
    """
    tested = [one["p"] for result in results for one in result["verdicts"] if one["p"] is not None]
    adjusted = iter(holm(tested))
    judged = []
    for result in results:
        verdicts = []
        for one in result["verdicts"]:
            p = None if one["p"] is None else next(adjusted)
            verdicts.append({**one, "p_adjusted": p, "text": _text(one, p, result["scored"])})
        judged.append({**result, "verdicts": verdicts, "rule": _rule(len(tested)) if verdicts else ""})
    return judged


def said(sentences: Sequence[str], result: Mapping[str, Any]) -> list[str]:
    """Return all sentences of a result: its own `sentences`, then its verdicts and the rule behind them."""
    verdicts = [one["text"] for one in result.get("verdicts", ())]
    return [*sentences, *verdicts, *([result["rule"]] if verdicts else [])]


def _text(one: Mapping[str, Any], p: float | None, scored: str) -> str:
    first, second, low, high = one["first"], one["second"], one["low"], one["high"]
    ends = "" if low is None else f" [{low:+.1f}, {high:+.1f}]"
    seeds = f"{one['seeds']} seed{'s' if one['seeds'] > 1 else ''}"
    figures = f"{one['value']:+.1f}{ends} points of mean Dice, {one['patients']} {scored} patients, {seeds}"
    figures = figures.replace("-", "−")
    adjusted = "" if p is None else f", adjusted p = {p:.2g}"
    if low is None:
        why = f"too few {scored} patients for an interval"
    elif p is None:
        why = f"fewer than {LEAST_SEEDS} seeds"
    elif low <= 0 <= high:
        why = f"the interval includes 0{adjusted}"
    elif p > LEVEL:
        why = f"not significant after correction for the number of comparisons{adjusted}"
    else:
        return f"{first} {'beats' if low > 0 else 'loses to'} {second}: {figures}{adjusted}."
    return f"{first} or {second}: undecided: {figures}, {why}."


def _rule(tested: int) -> str:
    return (
        "Each difference is between two means over the same sites, patients and seeds, with its uncorrected 95 % "
        f"bootstrap interval in brackets. A method beats another only with at least {LEAST_SEEDS} seeds, an interval "
        f"that excludes 0 and an adjusted p of at most {LEVEL}. p is two-sided, comes from the same bootstrap, and is "
        f"adjusted by Holm's procedure for the comparisons on this page that have a p: {tested or 'none'}."
    )
