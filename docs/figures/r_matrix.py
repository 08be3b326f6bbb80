"""How to read R: a heat map of made-up figures, with its diagonal, a column and the cells above the diagonal marked."""

import matplotlib
from canvas import INK, Canvas
from matplotlib.patches import Rectangle

_R = ((3, 2, 3), (90, 60, 20), (80, 85, 25), (70, 75, 90))
"""Dice in percent, made up: a row for each stage, the untrained student first, and a column for each hospital."""

_STAGES = ("untrained", "after stage 1", "after stage 2", "after stage 3")
_LEFT, _TOP, _WIDE, _HIGH = 210, 110, 186, 110
"""Pixels: where the cells begin, and their size."""

_ARRIVAL, _FORGETTING, _FORWARD = "#b35900", "#b3261e", "#00695c"


def draw_r() -> Canvas:
    """Draw the matrix, and a legend below it."""
    page = Canvas(_TOP + 4 * _HIGH + 245)
    page.text(_LEFT - 14, 78, "test patients of", align="right", size=24)
    for column in range(3):
        page.text(_LEFT + (column + 0.5) * _WIDE, 78, f"hospital {column + 1}", weight="bold", size=25)
    for row, (name, cells) in enumerate(zip(_STAGES, _R, strict=True)):
        middle = _TOP + (row + 0.5) * _HIGH
        page.text(_LEFT - 14, middle, name, align="right", size=24)
        for column, dice in enumerate(cells):
            shade = matplotlib.colormaps["Blues"](0.85 * dice / 100)
            x, y = _LEFT + column * _WIDE, _TOP + row * _HIGH
            page.axes.add_patch(Rectangle((x, y), _WIDE, _HIGH, facecolor=shade, edgecolor="white", linewidth=3))
            page.text(x + _WIDE / 2, middle, str(dice), size=34, colour="white" if dice > 65 else INK, weight="bold")
    _mark(page)
    page.text(400, 30, "R, schematic: mean Dice in percent", weight="bold")
    y = _TOP + 4 * _HIGH + 44
    for colour, name, told in (
        (_ARRIVAL, "arrival", "a hospital, learnt in its own stage"),
        (_FORGETTING, "forgetting", "down a column, from 90 to 70"),
        (_FORWARD, "forward transfer", "before a hospital arrives,\nabove the untrained student"),
    ):
        page.text(24, y, name, align="left", weight="bold", colour=colour)
        page.text(290, y + (17 if "\n" in told else 0), told, align="left")
        y += 66
    return page


def _mark(page: Canvas) -> None:
    for column in range(3):
        x, y = _LEFT + column * _WIDE, _TOP + (column + 1) * _HIGH
        page.axes.add_patch(
            Rectangle((x + 5, y + 5), _WIDE - 10, _HIGH - 10, fill=False, edgecolor=_ARRIVAL, linewidth=5, zorder=3)
        )
    x = _LEFT + 34
    page.arrow((x, _TOP + 1.75 * _HIGH), (x, _TOP + 3.8 * _HIGH), colour=_FORGETTING, width=5)
    for column in (1, 2):
        x, y = _LEFT + column * _WIDE, _TOP + column * _HIGH
        page.axes.add_patch(
            Rectangle(
                (x + 5, y + 5), _WIDE - 10, _HIGH - 10, fill=False, edgecolor=_FORWARD, linewidth=4, linestyle="--",
                zorder=3,
            )
        )  # fmt: skip
