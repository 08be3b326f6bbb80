"""The orders study: several methods on the same hospitals, which arrive in different orders."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.comparison.studies import FirstHospital, Study, StudyRuns, mean_of, outcomes, series
from fedserdiff.comparison.verdicts import compared
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Estimate
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings, Site

_BASE, _RAW = "fine-tune", "rehearsal"
_METHODS = (_BASE, "ser-diff", "ser-diff-plus", "lesion-replay", _RAW)
_ORDERS = 3
_HARDEST = "et"  # the region that a student forgets when a hospital's patients lack it
_COLUMNS = (
    "method", "Dice % [95 %]", "% of rehearsal's gain", "worst site", "first site", "on arrival",
    "first site's ET after later stages",
)  # fmt: skip


def orders(sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Return three orders of arrival, each with a different first site: the given one and two random, reproducible
    ones.

    For two sites there are two orders.
    """
    found, draws = [tuple(sites)], generator(0, "orders-of-arrival")
    while len(found) < min(_ORDERS, len(sites)):
        drawn = tuple(sites[place] for place in torch.randperm(len(sites), generator=draws).tolist())
        if drawn[0] not in [order[0] for order in found]:
            found.append(drawn)
    return found


def _variants(config: Settings, first: FirstHospital) -> dict[str, Settings]:
    if config.stages:
        raise ConfigError("--study orders: draws orders of arrival itself: leave out the [[stage]] tables")
    return {
        _name(method, number): config.replace(method=method, sites=order)
        for method in _METHODS
        for number, order in enumerate(orders(config.sites), 1)
    }


def _name(method: str, order: int) -> str:
    return f"{method}, order {order}"


def _describe(runs: StudyRuns, phantom: bool) -> dict[str, Any]:
    by_name = outcomes(runs, phantom)
    count = len(by_name) // len(_METHODS)
    names = {method: [_name(method, number) for number in range(1, count + 1)] for method in _METHODS}
    final = {method: _mean([by_name[name].dice for name in own]) for method, own in names.items()}
    gain = final[_RAW].value - final[_BASE].value
    rows = []
    for method, own in names.items():
        of_method = [runs[name] for name in own]
        share = 100 * (final[method].value - final[_BASE].value) / gain if gain > 0 else None
        figures = [_over(of_method, of) for of in (_worst, _first, _arrival, _first_sites_hardest)]
        rows.append([method, interval_text(scaled(final[method], 100)), share, *figures])
    arrivals = "; ".join(
        f"{number}: {', '.join(next(iter(runs[name].values())).results['sites'])}"
        for number, name in enumerate(names[_BASE], 1)
    )
    return {
        "columns": list(_COLUMNS),
        "rows": rows,
        "plot": {
            "kind": "bars",
            "x_label": "method",
            "y_label": "final mean Dice %",
            "log_x": False,
            "series": [
                series(f"order {number + 1}", list(names), [by_name[own[number]].dice for own in names.values()])
                for number in range(count)
            ],
        },
        "sentences": [f"The table shows means over these orders of arrival: {arrivals}."],
        "verdicts": [compared(method, _BASE, final[method] - final[_BASE]) for method in _METHODS if method != _BASE]
        + [compared("lesion-replay", _RAW, final["lesion-replay"] - final[_RAW])],
    }


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of estimates from the same draws."""
    values, replicates = ([getattr(one, name) for one in estimates] for name in ("value", "replicates"))
    return Estimate(float(np.mean(values)), np.mean(replicates, axis=0), estimates[0].sample)


def _over(of_orders: Sequence[Mapping[int, RunRecord]], value: Callable[[RunRecord], float]) -> float:
    """Return a run's value as a mean over orders and seeds, in %."""
    return 100 * float(np.mean([mean_of(by_seed, value) for by_seed in of_orders]))


def _worst(run: RunRecord) -> float:
    return min(run.final("dice"))


def _first(run: RunRecord) -> float:
    return run.final("dice")[0]


def _arrival(run: RunRecord) -> float:
    """Return the mean score of a site right after its own stage, over all sites except the first."""
    matrix = run.results["R"]["dice"]["mean"]
    return float(np.mean([matrix[stage][stage - 1] for stage in range(2, len(matrix))]))


def _first_sites_hardest(run: RunRecord) -> float:
    """Return the first site's mean score after later stages, of ET or, without this region, of all regions."""
    of_region = run.results["R"]["dice"]
    matrix = of_region.get(_HARDEST, of_region["mean"])
    return float(np.mean([row[0] for row in matrix[2:]]))


ORDERS = Study(
    "orders",
    "The order of arrival",
    "What does each method retain if the same hospitals arrive in different orders?",
    _variants,
    _describe,
)
