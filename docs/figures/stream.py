"""A stream of three hospitals, and what each method keeps of real ones: the figures of a table in the documentation."""

import re
from pathlib import Path

from canvas import COORDINATOR, HOSPITAL, INK, WIDTH, Canvas
from matplotlib.patches import Rectangle

from fedserdiff.methods import METHODS

TABLE = Path(__file__).resolve().parents[1] / "explanation" / "real-hospitals.md"
"""The page whose table "Three seeds on test patients" is drawn."""

_ROW = re.compile(r"^\| `([\w-]+)`[^|]*\| \**([\d.]+)\** \[(\d+), (\d+)\] \|")

_TOP, _WIRE, _BOTTOM = 120, 120, 120
"""Pixels: heights of the coordinator's area, of the wire and of the hospitals' area."""

_LOW, _HIGH, _LEFT, _RIGHT, _LINE = 55, 85, 250, 680, 46
"""Dice at both ends of the axis, in percent; pixels: the axis's ends, and the height of a method."""

Scores = dict[str, tuple[float, float, float]]


def read_scores() -> Scores:
    """Return mean Dice and its 95 % interval by method, in percent, best method first."""
    _, _, table = TABLE.read_text().partition("## Three seeds on test patients")
    rows = [found.groups() for line in table.partition("\n#")[0].splitlines() if (found := _ROW.match(line))]
    scores = {name: (float(mean), float(low), float(high)) for name, mean, low, high in rows}
    return dict(sorted(scores.items(), key=lambda entry: -entry[1][0]))


def listing(scores: Scores) -> str:
    """Return the figures, a line for each method."""
    return "\n".join(f"{name}: {' '.join(f'{value:g}' for value in values)}" for name, values in scores.items())


def draw_stream(scores: Scores) -> Canvas:
    """Draw three hospitals in order of arrival, and a line of Dice for each method below them."""
    stream = _TOP + _WIRE + _BOTTOM
    page = Canvas(stream + 96 + _LINE * len(scores) + 62)
    _draw_hospitals(page)
    _draw_scores(page, scores, stream + 96)
    return page


def _draw_hospitals(page: Canvas) -> None:
    hospitals = _TOP + _WIRE
    page.area(0, 0, WIDTH, _TOP, COORDINATOR)
    page.area(0, hospitals, WIDTH, _BOTTOM, HOSPITAL)
    page.text(16, 26, "coordinator", align="left", weight="bold")
    page.boundary((0, WIDTH), (hospitals - _WIRE / 2, hospitals - _WIRE / 2))
    for number in range(3):
        x = 16 + number * 270
        page.box(x, hospitals + 16, 228, 52, f"hospital {number + 1}")
        page.text(x + 114, hospitals + 92, "raw scans stay", size=24)
        page.box(x + 40, 52, 188, 52, f"student {number + 1}")
        page.arrow((x + 70, hospitals + 16), (x + 70, 104))
        page.text(x + 84, _TOP + 24, "weights,\nmoments", align="left", size=24)
        if number:
            page.arrow((x - 42, 78), (x + 40, 78))
            page.arrow((x - 50, 104), (x + 20, hospitals + 16))


def _draw_scores(page: Canvas, scores: Scores, top: float) -> None:
    def place(dice: float) -> float:
        return _LEFT + (dice - _LOW) / (_HIGH - _LOW) * (_RIGHT - _LEFT)

    bottom = top + _LINE * len(scores)
    page.text(16, top - 62, "Six real hospitals: Dice in percent after the last one", align="left", weight="bold")
    page.text(16, top - 26, "42 test patients, lesion crops, three seeds, 95 % intervals", align="left", size=24)
    for dice in range(_LOW, _HIGH + 1, 10):
        page.axes.plot((place(dice), place(dice)), (top, bottom), color="#c8c8c8", linewidth=1, zorder=1)
        page.text(place(dice), bottom + 22, str(dice), size=24)
    for number, (name, (mean, low, high)) in enumerate(scores.items()):
        y = top + (number + 0.5) * _LINE
        raw = " (raw)" if METHODS[name].breaks_privacy else ""
        page.text(_LEFT - 16, y, name + raw, align="right", size=25)
        page.axes.add_patch(Rectangle((place(low), y - 5), place(high) - place(low), 10, facecolor="#8fb3d9", zorder=2))
        page.axes.plot(place(mean), y, "o", color=INK, markersize=9, zorder=3)
        page.text(_RIGHT + 16, y, f"{mean:.1f}", align="left", weight="bold")
