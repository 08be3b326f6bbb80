"""Placement of labels in charts so that they cover neither points nor each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from scipy.optimize import isotonic_regression

_SIZE = 8.5
_SMALL = 7.0  # labels at the ends of lines
_LINE = 11.0  # points from one line of text to the next
_AROUND = 4.0  # points at each end of a text: renderers set it slightly wider than its outlines
_Box = tuple[float, float, float, float]  # left, bottom, right, top in points
# Candidate offsets of a text from its point: near ones first, right before left, above before below.
_OFFSETS = sorted(
    ((side * across, up * 0.5 * _LINE) for across in (9, 26, 45, 80, 120) for side in (1, -1) for up in range(-24, 25)),
    key=lambda offset: (abs(offset[1]) + 0.7 * abs(offset[0]), offset[0] < 0, offset[1] < 0),
)


def label_points(axis: Axes, marks: Sequence[tuple[float, float, float | None, float | None, str, str]]) -> None:
    """Write the text of each mark beside it, with a line to the mark if the text is far away.

    Parameters
    ----------
    axis : Axes
        Axes with the marks; its limits and its position in the figure must be final.
    marks : sequence of tuple
        For each mark: x, y, low and high end of the interval (or None), text (may be empty) and colour of the line.
    """
    axis.autoscale_view()
    to_points = 72 / axis.figure.dpi
    frame: _Box = tuple(to_points * value for value in axis.bbox.extents)  # type: ignore[assignment]
    points = []
    taken: list[_Box] = []
    texts: list[_Box] = []
    for x, y, low, high, _, _ in marks:
        across, up = to_points * axis.transData.transform((x, y))
        points.append((float(across), float(up)))
        taken.append(_around(points[-1], 5))
        if low is not None and high is not None:
            bottom, top = (to_points * float(axis.transData.transform((x, end))[1]) for end in (low, high))
            taken.append((across - 2, bottom, across + 2, top))
    for index in sorted(range(len(marks)), key=lambda index: (-points[index][1], points[index][0])):
        x, y, _, _, text, colour = marks[index]
        if not text:
            continue
        width = float(TextPath((0, 0), text, size=_SIZE).get_extents().width)
        boxes = [(offset, _box(points[index], offset, width)) for offset in _OFFSETS]
        others = [point for point in points if point != points[index]]
        free = (
            (offset, box)
            for offset, box in boxes
            if _inside(box, frame)
            and not any(_meet(box, other) for other in taken)
            and not any(_meet(step, _around(other, 5)) for step in _steps(points[index], offset) for other in others)
            and not any(_meet(step, text) for step in _steps(points[index], offset) for text in texts)
        )
        offset, box = next(free, boxes[0])
        taken += [box, *_steps(points[index], offset)[1:]]
        texts.append(box)
        away = abs(offset[0]) > 9 or abs(offset[1]) > 0.5 * _LINE
        axis.annotate(
            text,
            (x, y),
            offset,
            textcoords="offset points",
            ha="left" if offset[0] > 0 else "right",
            va="center",
            fontsize=_SIZE,
            zorder=4,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
            if away
            else None,
        )


def label_ends(figure: Figure, panels: Sequence[tuple[Axes, Sequence[tuple[float, str, str]]]]) -> None:
    """Write each line's name to the right of its end, as near as possible without overlapping names.

    Parameters
    ----------
    figure : Figure
        Figure with a layout engine that makes room for the names.
    panels : sequence of tuple
        All its panels: the axes and, for each line, the y of its end, its name and its colour.
    """
    written = []
    for axis, ends in panels:
        beside, ends = axis.get_yaxis_transform(), sorted(ends)
        names = [
            axis.annotate(
                name,
                (1.0, y),
                (1.06, y),
                beside,
                beside,
                color=colour,
                fontsize=_SMALL,
                va="center",
                annotation_clip=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": colour,
                    "linewidth": 0.5,
                    "shrinkA": 1,
                    "shrinkB": 0,
                    "relpos": (0, 0.5),
                },
            )
            for y, name, colour in ends
        ]
        written.append((axis, np.array([y for y, _, _ in ends]), names))
    figure.draw_without_rendering()  # computes the layout
    for axis, wanted, names in written:
        low, high = axis.get_ylim()
        line = 1.15 * _SMALL * figure.dpi / 72 / axis.bbox.height * (high - low)
        before = line * np.arange(len(names))  # the least height of the names below each one
        apart = isotonic_regression(wanted - before).x.clip(low, max(low, high - before[-1])) + before
        for name, y in zip(names, apart.tolist(), strict=True):
            name.set_position((1.06, y))


def _box(point: tuple[float, float], offset: tuple[float, float], width: float) -> _Box:
    left = point[0] + offset[0] - (width if offset[0] < 0 else 0)
    middle = point[1] + offset[1]
    return left - _AROUND, middle - 0.5 * _LINE, left + width + _AROUND, middle + 0.5 * _LINE


def _steps(point: tuple[float, float], offset: tuple[float, float]) -> list[_Box]:
    """Return boxes along the line from a point to its text, which must not touch other marks or texts."""
    shares = (step / 12 for step in range(1, 13))
    return [_around((point[0] + share * offset[0], point[1] + share * offset[1]), 0.5) for share in shares]


def _around(point: tuple[float, float], reach: float) -> _Box:
    return point[0] - reach, point[1] - reach, point[0] + reach, point[1] + reach


def _inside(box: _Box, frame: _Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
