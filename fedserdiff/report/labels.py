"""Texts beside the points of a chart, where they cover neither a point nor each other."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

_SIZE = 8.5
_LINE = 11.0  # points from one line of text to the next
_AROUND = 4.0  # points at either end of a text: a renderer sets it a little wider than its outlines
_Box = tuple[float, float, float, float]  # left, bottom, right, top in points
# Where a text may stand, measured from its point: near places first, right before left, above before below.
_OFFSETS = sorted(
    ((side * across, up * 0.5 * _LINE) for across in (9, 26, 45) for side in (1, -1) for up in range(-16, 17)),
    key=lambda offset: (abs(offset[1]) + 0.7 * abs(offset[0]), offset[0] < 0, offset[1] < 0),
)


def label_points(axis: Axes, marks: Sequence[tuple[float, float, float | None, float | None, str, str]]) -> None:
    """Write the text of each mark beside it; one that has to stand away from its point gets a line to it.

    Parameters
    ----------
    axis : Axes
        Where the marks are drawn; its limits and its place in the figure must be final.
    marks : sequence of tuple
        For each: x, y, the interval's low and high (or None), text (empty for none) and colour of the line.
    """
    axis.autoscale_view()
    to_points = 72 / axis.figure.dpi
    frame: _Box = tuple(to_points * value for value in axis.bbox.extents)  # type: ignore[assignment]
    points = []
    taken: list[_Box] = []
    for x, y, low, high, _, _ in marks:
        across, up = to_points * axis.transData.transform((x, y))
        points.append((float(across), float(up)))
        taken.append((across - 5, up - 5, across + 5, up + 5))
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
            and not any(_passes(points[index], offset, other) for other in others)
        )
        offset, box = next(free, boxes[0])
        taken.append(box)
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


def _box(point: tuple[float, float], offset: tuple[float, float], width: float) -> _Box:
    left = point[0] + offset[0] - (width if offset[0] < 0 else 0)
    middle = point[1] + offset[1]
    return left - _AROUND, middle - 0.5 * _LINE, left + width + _AROUND, middle + 0.5 * _LINE


def _passes(point: tuple[float, float], offset: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether the line from a point to its text touches another point's mark, whose text it would seem to be."""
    steps = (step / 12 for step in range(13))
    return any(
        abs(point[0] + step * offset[0] - other[0]) < 5 and abs(point[1] + step * offset[1] - other[1]) < 5
        for step in steps
        if step
    )


def _inside(box: _Box, frame: _Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def in_capitals(name: str) -> str:
    """Return the name of a region or modality as people write it: ``wt`` as WT, longer words as they are."""
    return name.upper() if len(name) <= 2 or name == "flair" else name
