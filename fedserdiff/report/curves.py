"""Curves of a hospital's training: a tidy table (CSV) in its own folder, one line a figure."""

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedserdiff.errors import RecordsError
from fedserdiff.files import write_whole

CURVES_FILE = "curves.csv"
"""In a hospital's folder, which it does not leave."""

COLUMNS = ("stage", "round", "step", "name", "value")
"""Of the table: three numbers from 1, the step being the stage's."""

RATE, SPEED = "rate", "steps_a_second"
"""Names of figures: the learning rate of the last step, and the speed since the point before, validation left out.

Others are ``loss.TERM``, the mean of a weighted term since the point before, and ``{coarse,refined}.dice.REGION``, the
mean Dice of validation cases, in [0, 1].
"""


@dataclass(frozen=True)
class Point:
    """Figures by name at a step of a stage, in a round of it; all three are counted from 1."""

    stage: int
    server_round: int
    step: int
    values: Mapping[str, float]

    def row(self, site: str) -> dict[str, str | int | float | None]:
        """Return the point as a row of ``results.json``, which knows no infinity and no NaN: they are None."""
        finite = {name: value if math.isfinite(value) else None for name, value in self.values.items()}
        return {"site": site, "stage": self.stage, "round": self.server_round, "step": self.step, **finite}


class CurvesFile:
    """The points of one round, entered in a hospital's table as they come; the file is at all times whole.

    Those of the same round that stand there are replaced: a round that is asked for again leaves its points once.
    """

    def __init__(self, file: Path, stage: int, server_round: int) -> None:
        self._file, self._stage, self._round = file, stage, server_round
        self._points: list[Point] = []

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Enter the figures of a step."""
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
    """Return the points of a hospital's table in their order; none where there is no such file.

    Raises
    ------
    RecordsError
        If it is not what `CurvesFile` writes.
    """
    if not file.is_file():
        return []
    points: dict[tuple[int, int, int], dict[str, float]] = {}
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            if tuple(row) != COLUMNS or None in row.values():
                raise RecordsError(f"{file}: is not a table of {', '.join(COLUMNS)}: move it away")
            place = (int(row["stage"]), int(row["round"]), int(row["step"]))
            points.setdefault(place, {})[row["name"]] = float(row["value"])
    return [Point(*place, values) for place, values in points.items()]
