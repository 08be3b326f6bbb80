"""Which of two is better, where that can be told: of paired differences, and of how many were looked at.

"Beats" is a decision that is wrong now and then. Who looks at many differences is wrong more often, unless the bar
rises with their number: Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979) keeps the chance that
any of them is told wrongly below 5 %.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.evaluation.bootstrap import Estimate

LEAST_SEEDS = 3
"""Of fewer runs how much training varies is not known, whatever their patients say (our choice)."""

LEVEL = 0.05


def compared(first: str, second: str, difference: Estimate) -> dict[str, Any]:
    """Return a comparison that `judge` can put into words, JSON-ready.

    Parameters
    ----------
    first, second : str
        What is compared, as a sentence names it.
    difference : Estimate
        The first's mean Dice less the second's, a fraction, paired.

    Returns
    -------
    dict
        ``first``, ``second``, ``value`` with ``low`` and ``high``, in points of Dice, the 95 % interval of this
        comparison alone; the number of ``seeds`` and ``patients`` it is of; ``p``, None where nothing can be told.
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
    """Return the two-sided p of a difference of 0, from bootstrap replicates of the difference.

    Twice the share of replicates on the side of 0 that fewer are on, one added to both counts, so that no p is 0
    (Davison and Hinkley, Bootstrap Methods and their Application, 1997, §4.2); it falls below 5 % where the 95 %
    percentile interval leaves out 0.
    """
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(replicates) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down procedure for as many comparisons as there are, in their order."""
    adjusted, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = least
    return adjusted


def judge(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return results with their ``verdicts`` in words, corrected for the comparisons of all of them together.

    A result is the contents of a ``comparison.json`` or of a study's file; its ``scored`` says whose scores it is of,
    ``test`` or ``validation`` patients'. Each of its verdicts, as `compared` made it, gets ``p_adjusted`` and ``text``;
    ``rule`` says how they were come by, and is empty where there is none.
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
    """Return all that is said of a result: its own `sentences`, then its verdicts and how they were come by."""
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
        why = f"an interval that includes 0{adjusted}"
    elif p > LEVEL:
        why = f"not clear enough among so many comparisons{adjusted}"
    else:
        return f"{first} {'beats' if low > 0 else 'loses to'} {second}: {figures}{adjusted}."
    return f"{first} or {second}: which is better cannot be told: {figures}, {why}."


def _rule(tested: int) -> str:
    return (
        "Each difference is of two means over the same sites, patients and seeds. In brackets is its own 95 % "
        f"interval, of a bootstrap over them. What beats what is told from {LEAST_SEEDS} seeds on, where that interval "
        f"leaves out 0 and p is at most {LEVEL}: p is of the same bootstrap, two-sided, adjusted by Holm's procedure "
        f"for the comparisons here that have one: {tested or 'none'}."
    )
