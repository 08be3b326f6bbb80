"""Charts for comparisons of methods and for studies, drawn from the values that the report's page is made from."""

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from fedserdiff.report.labels import label_ends, label_points
from fedserdiff.report.looks import LOOKS, look

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "text.parse_math": False,  # a hospital may have $ in its name
    "svg.hashsalt": "fedserdiff",  # element ids repeat from run to run
    "svg.fonttype": "path",
}
_NAMED_STAGES = 5  # from this many on, stages are numbered, because their names would overlap
_MANY_BARS = 11  # from this many on, names are in small print, because they would overlap
_WIDTH = 8.0  # inches; the page shows charts at this size, so text stays readable on paper
_ARRIVAL = "#999999"
_TOLD_APART = 8  # with more lines than this, names stand at the ends of the lines


@matplotlib.rc_context(_STYLE)
def heat_maps(methods: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Figure:
    """Draw R in one panel for each method: stages as rows, sites as columns, Dice in % in each cell.

    A frame marks the cell of the student that a site uses at the end.
    """
    few = len(sites) < _NAMED_STAGES
    cell = 0.56 if few else 0.36
    panel = max(len(sites) * cell + (0.95 if few else 0.4), 2.6)  # the title needs this width
    columns = max(1, min(len(methods), int(_WIDTH // panel)))
    lines = -(-len(methods) // columns)
    stages = max(len(method["stages"]) for method in methods)
    height = stages * (0.3 if few else 0.26) + 0.75
    figure = Figure(figsize=(columns * panel, lines * (height + 0.1)), layout=ConstrainedLayoutEngine(h_pad=0.09))
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis, method in zip(panels, methods, strict=False):
        _heat_map(axis, method, sites, stages, 9 if few else 7)
    for axis in panels[len(methods) :]:
        axis.set_axis_off()
    return figure


def _heat_map(axis: Axes, method: Mapping[str, Any], sites: Sequence[str], stages: int, size: float) -> None:
    percent = [_in_percent(row) for row in method["R"]["dice"]]
    colours = matplotlib.colormaps["Blues"]
    axis.pcolormesh(percent, cmap=colours, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    for row, values in enumerate(percent):
        for column, value in enumerate(values):
            if math.isnan(value):  # the site had left
                continue
            ink = "white" if value > 65 else "black"
            axis.text(column + 0.5, row + 0.5, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=size)
    for column, row in enumerate(method["deployed"]):
        axis.add_patch(
            Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, fill=False, edgecolor="#d55e00", linewidth=1.6)
        )
    numbered = len(sites) >= _NAMED_STAGES
    places = [str(place) for place in range(1, len(sites) + 1)] if numbered else [_short(site) for site in sites]
    axis.set_xticks([place + 0.5 for place in range(len(sites))], places)
    names = method["stages"]
    rows = [str(row) for row in range(len(names))] if numbered and len(names) > 2 else [_short(name) for name in names]
    axis.set_yticks([row + 0.5 for row in range(len(names))], rows)
    axis.tick_params(length=0, labelsize=8)
    axis.set_xlim(0, len(sites))
    axis.set_ylim(stages, 0)  # the same height in every panel, so that all cells have the same size
    axis.spines[:].set_visible(False)
    axis.xaxis.tick_top()
    axis.set_title(_with_warning(method), loc="left", fontweight="bold", fontsize=9)


@matplotlib.rc_context(_STYLE)
def dice_across_stages(methods: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Figure:
    """Draw each site's Dice after each stage: one panel for each site, one line for each method.

    A method without a separate stage for each site, such as ``pooled``, is a dashed line at its final value. A
    dotted line marks the stage at which the site arrives.
    """
    crowded = len(methods) > _TOLD_APART
    columns = min(2 if crowded else 3, len(sites))
    lines = -(-len(sites) // columns)
    width = _WIDTH if columns == 3 else 4.0 * columns
    height = 0.15 * len(methods) + 0.8 if crowded else 2.5
    figure = Figure(figsize=(width, height * lines + 0.9), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    stages = _stages_of_stream(methods, sites)
    for axis, (place, site) in zip(panels, enumerate(sites), strict=False):
        for method in methods:
            colour, marker = look(method["name"])
            percent = _column(method, place)
            if _is_reference(method, stages):
                axis.axhline(percent[-1], color=colour, linestyle="--", linewidth=1.3)
            else:
                axis.plot(range(len(percent)), percent, color=colour, marker=marker, markersize=4.5, linewidth=1.3)
        arrival = _arrival(methods, place)
        axis.axvline(arrival, color=_ARRIVAL, linestyle=":", linewidth=1.2, zorder=0)
        above = axis.get_xaxis_transform()
        axis.text(arrival, 1.01, "arrives", transform=above, ha="center", va="bottom", fontsize=7.5, color="#555555")
        named = len(stages) <= _NAMED_STAGES
        axis.set_xticks(
            range(len(stages)), [_short(stage) if named else str(number) for number, stage in enumerate(stages)]
        )
        if named:
            axis.tick_params(axis="x", rotation=30)
        axis.set_xlim(-0.25, len(stages) - 0.75)
        axis.set_title(_short(site, 24), loc="left", fontweight="bold", pad=16)
        axis.grid(axis="y")
        if not named:
            axis.set_xlabel("stage")
    for axis in panels[:: len(panels) // lines]:
        axis.set_ylabel("Dice %")
    for axis in panels[len(sites) :]:
        axis.set_axis_off()
    figure.legend(
        handles=[_handle(method, _is_reference(method, stages)) for method in methods],
        loc="outside lower center",
        ncols=min(4 if width == _WIDTH else 2, len(methods)),
        frameon=False,
    )
    if crowded:
        ends = [
            [(_last_known(m, place), m["name"], look(m["name"])[0]) for m in methods] for place in range(len(sites))
        ]
        label_ends(figure, list(zip(panels, ends, strict=False)))
    return figure


@matplotlib.rc_context(_STYLE)
def validation_curves(methods: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Figure:
    """Draw mean refined Dice by training step: one panel for each site that validated, one line for each method and
    seed.

    If a site trains in several stages, they follow one another; a marker shows the best value of each stage.
    """
    shown = [site for site in sites if any(curve["site"] == site for method in methods for curve in method["curves"])]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    width = _WIDTH if columns == 3 else 4.0 * columns
    figure = Figure(figsize=(width, 2.3 * lines + 0.9), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axis, site in zip(panels, shown, strict=False):
        for method in methods:
            colour, marker = look(method["name"])
            before: dict[int, int] = {}  # by seed, steps of the stages before
            for curve in (curve for curve in method["curves"] if curve["site"] == site):
                start = before.get(curve["seed"], 0)
                before[curve["seed"]] = start + curve["steps"][-1]
                steps, percent = [start + step for step in curve["steps"]], [100 * dice for dice in curve["dice"]]
                best = percent.index(max(percent))
                axis.plot(steps, percent, color=colour, marker=marker, markersize=4.5, markevery=[best], linewidth=1.1)
        axis.set_title(_short(site, 24), loc="left", fontweight="bold")
        axis.grid(axis="y")
        axis.set_xlabel("step")
    for axis in panels[::columns]:
        axis.set_ylabel("Dice %")
    for axis in panels[len(shown) :]:
        axis.set_axis_off()
    figure.legend(
        handles=[_handle(method, False) for method in methods if method["curves"]],
        loc="outside lower center",
        ncols=min(4 if columns == 3 else 2 * columns, len(methods)),
        frameon=False,
    )
    return figure


def _in_percent(dice: Sequence[float | None]) -> list[float]:
    """Return Dice in %; NaN where a site had left."""
    return [math.nan if value is None else 100 * value for value in dice]


def _column(method: Mapping[str, Any], place: int) -> list[float]:
    """Return a site's column of R, Dice in % after each stage."""
    return _in_percent([row[place] for row in method["R"]["dice"]])


def _last_known(method: Mapping[str, Any], place: int) -> float:
    """Return the Dice in % at which a site's line ends."""
    return next(value for value in reversed(_column(method, place)) if not math.isnan(value))


def _stages_of_stream(methods: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Sequence[str]:
    """Return the stages of the methods whose sites arrive one after another."""
    for method in methods:
        if max(method["arrivals"], default=0) > 1:
            stages: Sequence[str] = method["stages"]
            return stages
    return ["untrained", *sites]


def _arrival(methods: Sequence[Mapping[str, Any]], place: int) -> int:
    """Return the stage in which the site at a place, from 0, arrives."""
    return next((m["arrivals"][place] for m in methods if max(m["arrivals"], default=0) > 1), place + 1)


def _is_reference(method: Mapping[str, Any], stages: Sequence[str]) -> bool:
    return list(method["stages"]) != list(stages)


def _handle(method: Mapping[str, Any], reference: bool) -> Line2D:
    colour, marker = look(method["name"])
    style: dict[str, Any] = {"linestyle": "--"} if reference else {"marker": marker, "markersize": 5}
    return Line2D([], [], color=colour, label=_with_warning(method), linewidth=1.3, **style)


@matplotlib.rc_context(_STYLE)
def utility_against_bytes(methods: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw final mean Dice, with its 95 % interval, against the megabytes that left the hospitals in a run."""
    height = max(4.6, 0.3 * len(methods) + 2.2)
    figure = Figure(figsize=(_WIDTH, height))
    axis = figure.add_axes((0.08, 0.92 / height, 0.9, 1 - 1.06 / height))
    sent = [sum(method["bytes_out"].values()) / 1e6 for method in methods]
    smallest = min((value for value in sent if value > 0), default=1.0)
    places = [value or smallest / 10 for value in sent]  # 0 has no place on a log axis; the label says "no bytes"
    margin = max((max(places) / min(places)) ** 0.15, 2.0)
    left, right = min(places) / margin, max(places) * margin
    points = 72 * 0.9 * _WIDTH  # the axis' length
    places = _side_by_side(places, math.log(right / left) / points)
    marks = []
    for method, place, megabytes in zip(methods, places, sent, strict=True):
        colour, _ = look(method["name"])
        score = method["scores"]["dice"]
        value = 100 * score["value"]
        low, high = (None if score[end] is None else 100 * score[end] for end in ("low", "high"))
        _interval(axis, place, low, high, colour)
        _mark(axis, place, value, colour, method["breaks_privacy"])
        text = f"{method['name']} {value:.1f}" + ("" if megabytes else " (no bytes)")
        marks.append((place, value, low, high, text, colour))
    axis.set_xscale("log")
    axis.set_xlim(left, right)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # ticks with numbers even for less than a decade
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.xaxis.set_minor_formatter("")
    axis.margins(y=0.08)
    axis.set_xlabel("MB that left the hospitals, per run (log scale)")
    axis.set_ylabel("final mean Dice %")
    axis.grid()
    axis.set_axisbelow(True)
    label_points(axis, marks)
    looks = [
        ("o", "#333333", "no scan leaves a hospital"),
        ("D", "white", "breaks privacy: raw scans leave the hospitals"),
    ]
    handles = [
        Line2D([], [], linestyle="", marker=marker, markersize=7, color="#333333", markerfacecolor=face, label=label)
        for marker, face, label in looks
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False)
    return figure


def _side_by_side(places: Sequence[float], point: float, apart: float = 6.0) -> list[float]:
    """Move nearly equal positions on a logarithmic axis slightly apart, keeping their order.

    Parameters
    ----------
    places : sequence of float
        The marks' positions.
    point : float
        Length of one typographic point along the axis, as a natural logarithm.
    apart : float
        Distance between neighbours in points; intervals on top of each other would look like one.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda index: (places[index], index)):
        near = groups and math.log(places[index] / places[groups[-1][-1]]) < apart * point
        if near:
            groups[-1].append(index)
        else:
            groups.append([index])
    moved = list(places)
    for group in groups:
        middle = sum(math.log(places[index]) for index in group) / len(group)
        for number, index in enumerate(group):
            if len(group) > 1:
                moved[index] = math.exp(middle + (number - (len(group) - 1) / 2) * apart * point)
    return moved


def _mark(axis: Axes, x: float, y: float, colour: str, hollow: bool) -> None:
    face = "white" if hollow else colour
    marker = "D" if hollow else "o"
    axis.plot([x], [y], marker=marker, markersize=7, color=colour, markerfacecolor=face, markeredgewidth=1.6, zorder=3)


def _interval(axis: Axes, x: float, low: float | None, high: float | None, colour: str) -> None:
    """Draw an interval from low to high. Unlike an error bar, it need not contain the value."""
    if low is not None and high is not None:
        axis.plot([x, x], [low, high], color=colour, marker="_", markersize=7, linewidth=1.2, alpha=0.8, zorder=2)


@matplotlib.rc_context(_STYLE)
def study_plot(plot: Mapping[str, Any]) -> Figure:
    """Draw a study's plot: lines, points with texts, or grouped bars, with intervals if there are any."""
    figure = Figure(figsize=(6.6, 3.9))
    axis = figure.add_axes((0.11, 0.24, 0.86, 0.7))
    series = plot["series"]
    bars, series_looks = plot["kind"] == "bars", list(LOOKS.values())
    categories = list(dict.fromkeys(x for one in series for x in one["x"] if bars or isinstance(x, str)))
    marks = []
    for number, one in enumerate(series):
        colour, marker = LOOKS.get(one["label"], series_looks[number % len(LOOKS)])
        places: list[float] = [categories.index(x) if x in categories else x for x in one["x"]]
        heights = [float("nan") if y is None else float(y) for y in one["y"]]
        if bars:
            width = 0.8 / len(series)
            places = [place + (number - (len(series) - 1) / 2) * width for place in places]
            axis.bar(places, heights, 0.92 * width, color=colour, label=one["label"])
        else:
            line = "-" if plot["kind"] == "line" else ""
            axis.plot(places, heights, color=colour, marker=marker, markersize=6, linestyle=line, label=one["label"])
        nothing = [None] * len(places)
        lows, highs, texts = (one.get(key) or nothing for key in ("low", "high", "texts"))
        for x, y, low, high, text in zip(places, heights, lows, highs, texts, strict=True):
            _interval(axis, x, low, high, "#333333" if bars else colour)
            if y == y:  # no mark for a missing value
                marks.append((x, y, low, high, text or "", colour))
    if plot.get("log_x") and not categories:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.xaxis.set_minor_formatter("")
    if categories:
        wide = max(72 // len(categories), 8)  # characters under a bar
        size = 9 if len(categories) < _MANY_BARS else 7
        axis.set_xticks(range(len(categories)), [textwrap.fill(str(name), wide) for name in categories], fontsize=size)
    axis.margins(x=0.12 if any(mark[4] for mark in marks) else 0.05, y=0.1)
    axis.set_xlabel(plot["x_label"])
    axis.set_ylabel(plot["y_label"])
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    label_points(axis, marks)
    handles, labels = axis.get_legend_handles_labels()
    if len(series) > 1:
        columns = min(4, len(series)) if sum(map(len, labels)) < 60 else 2
        figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False)
    return figure


@matplotlib.rc_context(_STYLE)
def svg(figure: Figure) -> str:
    """Return a figure as the data URI of an SVG picture; the same figure gives the same text."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def png_uri(picture: bytes) -> str:
    """Return the content of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")


def _with_warning(method: Mapping[str, Any]) -> str:
    return f"{method['name']} (breaks privacy)" if method["breaks_privacy"] else str(method["name"])


def _short(text: str, length: int = 11) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
