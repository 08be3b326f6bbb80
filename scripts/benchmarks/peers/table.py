"""The table of a comparison: means, and paired differences with intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from rich.table import Table

from fedserdiff.evaluation.bootstrap import Estimate, Interval, Resampling, StreamScores

from benchmarks.peers.measurement import METRICS
from benchmarks.peers.methods import METHODS

Row = Mapping[str, Any]

_ALL = "all"  # the patients of all folds, as one hospital


@dataclass(frozen=True)
class Line:
    """A mask of a method, over all its rows.

    Attributes
    ----------
    method, mask : str
    rows : sequence of mapping
        Rows of folds and seeds.
    """

    method: str
    mask: str
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        """Title in the table."""
        several = len(self.rows[0]["scores"]) > 1
        return METHODS[self.method].title + (f", {self.mask}" if several else "")

    @property
    def regions(self) -> list[str]:
        """Names of the regions."""
        first = self.rows[0]["scores"][self.mask][0]
        return [name.partition(".")[2] for name in first if name.startswith("dice.")]

    def mean(self, metric: str, region: str | None = None) -> float:
        """Return the mean over patients, for one region or all."""
        regions = [region] if region else self.regions
        return fmean(
            case[f"{metric}.{one}"] for row in self.rows for case in row["scores"][self.mask] for one in regions
        )

    def by_case(self, metric: str) -> dict[tuple[int, str], tuple[str, float]]:
        """Return the patient and the mean over regions, by seed and case."""
        return {
            (row["asked"]["seed"], named["case"]): (
                named["patient"],
                fmean(case[f"{metric}.{region}"] for region in self.regions),
            )
            for row in self.rows
            for named, case in zip(row["sides"][row["scored"]], row["scores"][self.mask], strict=True)
        }

    def figure(self, name: str) -> float:
        """Return the mean of a figure over rows."""
        return fmean(row[name] for row in self.rows)


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """Return a line for each mask of each method, in the order of `METHODS`."""
    by_method: dict[str, list[Row]] = {name: [] for name in METHODS}
    for row in rows:
        by_method[row["asked"]["method"]].append(row)
    return [Line(name, mask, own) for name, own in by_method.items() if own for mask in own[0]["scores"]]


def difference(one: Line, other: Line, metric: str) -> Interval | None:
    """Return one line's mean minus another's, paired by case and seed, with a 95 % interval over seeds and patients.

    Only cases count that both lines have for every shared seed; the result is None if there are none.
    """
    left, right = one.by_case(metric), other.by_case(metric)
    both = left.keys() & right.keys()
    seeds = sorted({seed for seed, _ in both})
    cases = sorted({case for _, case in both if all((seed, case) in both for seed in seeds)})
    if not cases:
        return None
    patients = {seed: {_ALL: [left[seed, case][0] for case in cases]} for seed in seeds}
    draws = Resampling(patients, shared_patients=True)

    def of(scores: Mapping[tuple[int, str], tuple[str, float]]) -> Estimate:
        values = {seed: np.array([[scores[seed, case][1] for case in cases]]) for seed in seeds}
        runs = {s: StreamScores({_ALL: values[s]}, patients[s], {_ALL: 0}, metric == "dice") for s in seeds}
        estimate = draws.estimates(runs)["final"]
        assert estimate is not None  # every stream has a final score
        return estimate

    return (of(left) - of(right)).interval()


def summary(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Return one record per line, ready for JSON, with the differences of the first line minus this one."""
    return [
        {
            "method": line.method,
            "mask": line.mask,
            "title": line.title,
            "folds": sorted({row["asked"]["fold"] for row in line.rows}),
            "seeds": sorted({row["asked"]["seed"] for row in line.rows}),
            "cases": sum(len(row["sides"][row["scored"]]) for row in line.rows),
            **{f"dice.{region}": line.mean("dice", region) for region in line.regions},
            **{f"hd95.{region}": line.mean("hd95", region) for region in line.regions},
            **{metric: line.mean(metric) for metric in METRICS},
            **{name: line.figure(name) for name in ("volume_s", "peak_mib", "minutes", "iterations")},
            "first_minus": {metric: _told(difference(lines[0], line, metric)) for metric in METRICS},
        }
        for line in lines
    ]


def table(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return the table of a summary."""
    regions = [name.partition(".")[2] for name in records[0] if name.startswith("dice.")]
    shown = Table(
        "method", "cases", *(f"Dice % {region}" for region in regions), "mean", "HD95 mm", "first − it: Dice",
        "HD95", "s a volume", "peak, MiB", "minutes", "iterations", title=title,
    )  # fmt: skip
    for record in records:
        less = record["first_minus"]
        first = record is records[0]
        shown.add_row(
            record["title"], str(record["cases"]), *(f"{100 * record[f'dice.{region}']:.1f}" for region in regions),
            f"{100 * record['dice']:.1f}", f"{record['hd95']:.1f}",
            "" if first else _text(less["dice"], 100), "" if first else _text(less["hd95"], 1),
            f"{record['volume_s']:.2f}", f"{record['peak_mib']:.0f}", f"{record['minutes']:.1f}",
            f"{record['iterations']:.0f}",
        )  # fmt: skip
    return shown


def _told(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else interval.to_dict()


def _text(interval: Mapping[str, float | None] | None, scale: float) -> str:
    if interval is None:
        return "–"
    value, low, high = (None if end is None else scale * end for end in interval.values())
    return f"{value:+.1f}" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")
