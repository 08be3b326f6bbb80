"""Comparisons and studies for tests of the report, as plain values."""

from collections.abc import Sequence
from typing import Any

METHODS = ("ser-diff", "fine-tune", "distill", "ewc", "rehearsal", "image-replay", "pooled", "local")
BREAKING = ("rehearsal", "pooled")
RECOGNISING = ("ser-diff-plus", "fed-bn")
TOGETHER = ("fed-avg", "fed-prox", "fed-bn", "fed-control")
MANY = (*METHODS, "ser-diff-plus", "lesion-replay", "ser-diff+ewc", *TOGETHER)
"""Fifteen, of every group; those that are together are nobody's but this file's."""


def make_comparison(
    sites: Sequence[str] = ("site-1", "site-2", "site-3"),
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    phantom: bool = True,
) -> dict[str, Any]:
    """A comparison in which every value differs from every other, as far as its rounding allows."""
    return {
        "data": {
            "name": "phantom" if phantom else "BraTS",
            "phantom": phantom,
            "stream": "patients" if phantom else None,
            "profile": "laptop",
            "sites": list(sites),
            "releases": ["brats2020", "brats2021", "brats2023-gli"],
            "cases": {site: {"training": 16 + place, "test": 4 + place} for place, site in enumerate(sites)},
            "seeds": list(seeds),
            "left_out": [],
        },
        "scored": "test",
        "versions": {"fedserdiff": "0.1.0", "torch": "2.13.0"},
        "methods": [_method(name, number, sites, seeds) for number, name in enumerate(methods)],
        "answer": ["Replay forgets less: −1.2 points against −14.3."],
        "notes": ["Intervals: 2,000 bootstrap resamples of test cases."],
    }


def _method(name: str, number: int, sites: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    at_once = name == "pooled" or name in TOGETHER
    rows = 2 if at_once else len(sites) + 1
    dice = [[0.05 + 0.6 * row / rows + 0.013 * number + 0.0071 * s for s in range(len(sites))] for row in range(rows)]
    hd95 = [[40 - 20 * row / rows + 0.7 * number + 0.11 * s for s in range(len(sites))] for row in range(rows)]
    deployed = [place + 1 if name == "local" else rows - 1 for place in range(len(sites))]
    final = sum(dice[-1]) / len(sites)
    worst = min(range(len(sites)), key=lambda place: dice[deployed[place]][place])
    lowest = dice[deployed[worst]][worst]
    stream = not at_once and name != "local" and len(sites) > 1
    sent: dict[str, int | float] = {"arrays": 9_000_000 + 150_000 * number, "metrics": 4321 + number, "site": 99}
    if name == "local":
        sent = {"metrics": 4321 + number, "site": 99}
    if name == "ser-diff":
        sent["error-maps"] = 765_432.4
    if name in BREAKING:
        sent["raw-scans"] = 240_000_000 + 80_000_000 * number
    return {
        "name": name,
        "summary": f"what {name} does against forgetting",
        "group": _group(name),
        "needs": ["raw data of other hospitals"] if name in BREAKING else [],
        "breaks_privacy": name in BREAKING,
        "seeds": list(seeds),
        "scores": {
            "dice": {"value": final, "low": final - 0.061, "high": final + 0.043},
            "known_origin": {"value": final + 0.0271, "low": final - 0.0112, "high": final + 0.0893}
            if name in RECOGNISING
            else None,
            "hd95": {"value": 14.2 + number, "low": 11.1 + number, "high": 19.9 + number},
            "bwt": {"value": -0.143 + 0.02 * number, "low": -0.2, "high": 0.01} if stream else None,
            "fwt": {"value": 0.031 + 0.004 * number, "low": -0.01, "high": 0.07} if stream else None,
            "forgetting": {"value": 0.15 - 0.02 * number, "low": 0.0, "high": 0.22} if stream else None,
        },
        "fairness": {
            "worst_site": sites[worst],
            "worst": {"value": lowest, "low": lowest - 0.083, "high": lowest + 0.021},
            "spread": {"value": 0.031 + 0.002 * number, "low": 0.012, "high": 0.094},
        },
        "dice_by_region": {
            region: {"value": final + shift, "low": final + shift - 0.07, "high": final + shift + 0.06}
            for region, shift in (("tc", 0.0123), ("wt", 0.0871), ("et", -0.0994))
        },
        "per_site": {
            "dice": {site: dice[row][place] for place, (site, row) in enumerate(zip(sites, deployed, strict=True))},
            "hd95": {site: hd95[row][place] for place, (site, row) in enumerate(zip(sites, deployed, strict=True))},
        },
        "R": {"dice": dice, "hd95": hd95},
        "curves": [],
        "stages": ["untrained", "pooled" if name == "pooled" else "together"] if at_once else ["untrained", *sites],
        "deployed": deployed,
        "arrivals": [] if name in ("local", "pooled") else [1] * len(sites) if at_once else [*range(1, len(sites) + 1)],
        "bytes_out": sent,
        "minutes": 3.4 + number,
    }


def _group(name: str) -> str:
    if name in BREAKING:
        return "raw-data"
    return "alone" if name == "local" else "together" if name in TOGETHER else "in-turn"


def make_study(kind: str = "line") -> dict[str, Any]:
    """A study with numbers, texts and a missing value."""
    x = ["none", "some", "all"] if kind == "bars" else [0.01, 0.1, 1.0]
    series = {"x": x, "y": [41.5, 43.2, None], "low": [35.0, 38.0, None], "high": [46.0, 49.5, None]}
    return {
        "name": kind,
        "title": f"A study of {kind}",
        "question": "How strongly should a hospital listen to the past?",
        "data": "phantom data, 3 sites, seed 0, 12 validation cases, profile laptop",
        "scored": "validation",
        "columns": ["λ", "Dice % on site-1", "cases", "method"],
        "rows": [["0.01", 41.52, 12, "ser-diff"], ["0.1", 43.25, 7, "rehearsal"], ["1", None, -3, "fine-tune"]],
        "plot": {
            "kind": kind,
            "x_label": "λ",
            "y_label": "Dice %",
            "log_x": kind == "line",
            "series": [
                {"label": "ser-diff", **series, "texts": ["0.01", "0.1", "1"] if kind == "scatter" else None},
                {"label": "site-2", "x": x, "y": [30.0, 31.5, 33.0], "low": None, "high": None, "texts": None},
            ],
        },
        "sentences": ["More is better up to a point."],
    }
