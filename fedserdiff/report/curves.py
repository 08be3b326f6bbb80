"""Training curves of a hospital: a tidy CSV table in its own folder, one row for each value."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedserdiff.errors import RecordsError
from fedserdiff.files import write_whole

CURVES_FILE = "curves.csv"
"""File in a hospital's folder; it does not leave the hospital."""

COLUMNS = ("stage", "round", "step", "name", "value")
"""Columns of the table. Stage, round and step count from 1; the step is counted within the stage."""

RATE, SPEED = "rate", "steps_a_second"
"""Names of values: the learning rate of the last step, and the speed since the last point, without validation time.

Others are ``loss.TERM``, the mean of a weighted loss term since the last point, and ``{coarse,refined}.dice.REGION``,
the mean Dice of validation cases, in [0, 1].
"""


@dataclass(frozen=True)
class Point:
    """Values by name at a stage, round and step; all three are counted from 1."""

    stage: int
    server_round: int
    step: int
    values: Mapping[str, float]

    def row(self, site: str) -> dict[str, str | int | float | None]:
        """Return the point as a row of ``results.json``; infinity and NaN become None, which JSON can hold."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
        return {"site": site, "stage": self.stage, "round": self.server_round, "step": self.step, **finite}


class CurvesFile:
    """Writer of one round's points into a hospital's table; the file is complete at all times.

    Existing points of the same round are replaced, so a repeated round appears only once.
    """

    def __init__(self, file: Path, stage: int, server_round: int) -> None:
        self._file, self._stage, self._round = file, stage, server_round
        self._points: list[Point] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a step."""
        self._points.append(Point(self._stage, self._round, step, dict(values)))
        own = (self._stage, self._round)
        others = [point for point in read_curves(self._file) if (point.stage, point.server_round) != own]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for point in sorted([*others, *self._points], key=lambda one: (one.stage, one.server_round, one.step)):
            place = (point.stage, point.server_round, point.step)
            writer.writerows((*place, name, value) for name, value in point.values.items())
        write_whole(self._file, lambda opened: opened.write(text.getvalue().encode()))


def read_curves(file: Path) -> list[Point]:
    """Read the points of a hospital's table in order; return none if the file does not exist.

    Raises
    ------
    RecordsError
        If the file is not a table that `CurvesFile` wrote.
    """
    if not file.is_file():
        return []
    points: dict[tuple[int, int, int], dict[str, float]] = {}
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            if tuple(row) != COLUMNS or None in row.values():
                raise RecordsError(f"{file}: is not a table with the columns {', '.join(COLUMNS)}; move it away")
            place = (int(row["stage"]), int(row["round"]), int(row["step"]))
            points.setdefault(place, {})[row["name"]] = float(row["value"])
    return [Point(*place, values) for place, values in points.items()]
