import base64
import math
from itertools import pairwise

import pytest
from comparisons import MANY, METHODS, TOGETHER, make_comparison, make_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from fedserdiff.report.charts import (
    dice_across_stages,
    heat_maps,
    study_plot,
    svg,
    utility_against_bytes,
    validation_curves,
)

SITES = ("site-1", "site-2", "site-3")


def shown_axes(figure: Figure) -> list:
    return [axis for axis in figure.axes if axis.axison]


def intervals(axis) -> list[tuple[float, float, float]]:
    """(x, low, high) of each interval."""
    lines = [line.get_xydata() for line in axis.lines if line.get_marker() == "_"]
    return [(float(line[0][0]), float(line[0][1]), float(line[1][1])) for line in lines]


def test_heat_maps_write_every_value_of_r_in_a_panel_of_its_method() -> None:
    methods = make_comparison()["methods"]
    panels = shown_axes(heat_maps(methods, SITES))
    assert [axis.get_title("left").removesuffix(" (breaks privacy)") for axis in panels] == list(METHODS)
    for axis, method in zip(panels, methods, strict=True):
        expected = {
            (place + 0.5, row + 0.5): f"{100 * value:.1f}"
            for row, values in enumerate(method["R"]["dice"])
            for place, value in enumerate(values)
        }
        assert {text.get_position(): text.get_text() for text in axis.texts} == expected
        assert [label.get_text() for label in axis.get_yticklabels()] == method["stages"]
        assert [label.get_text() for label in axis.get_xticklabels()] == list(SITES)


def test_heat_maps_warn_of_methods_that_break_privacy_and_frame_what_is_deployed() -> None:
    methods = make_comparison()["methods"]
    panels = {axis.get_title("left"): axis for axis in shown_axes(heat_maps(methods, SITES))}
    assert {title for title in panels if "breaks privacy" in title} == {
        "rehearsal (breaks privacy)",
        "pooled (breaks privacy)",
    }
    for title, rows in (("local", [1, 2, 3]), ("ser-diff", [3, 3, 3]), ("pooled (breaks privacy)", [1, 1, 1])):
        frames = [patch for patch in panels[title].patches if isinstance(patch, Rectangle)]
        assert [(int(frame.get_x()), int(frame.get_y())) for frame in frames] == list(enumerate(rows))


@pytest.mark.parametrize("count", [1, 10])
def test_charts_have_room_for_one_site_and_for_many(count: int) -> None:
    sites = [f"hospital {place} with a long name" for place in range(1, count + 1)]
    methods = make_comparison(sites)["methods"]
    heat, lines = heat_maps(methods, sites), dice_across_stages(methods, sites)
    assert len(shown_axes(heat)) == len(methods)
    assert len(shown_axes(heat)[0].texts) == (count + 1) * count
    assert len(shown_axes(lines)) == count
    for figure in (heat, lines):
        assert figure.get_figwidth() <= 8.0
        figure.canvas.draw()
        for axis in shown_axes(figure):
            box = axis.get_position()
            assert min(box.width * figure.get_figwidth(), box.height * figure.get_figheight()) > 0.4


def test_titles_of_heat_maps_do_not_run_into_each_other() -> None:
    for sites in (SITES[:1], SITES, [f"s{number}" for number in range(10)]):
        figure = heat_maps(make_comparison(sites, methods=METHODS[4:7])["methods"], sites)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [axis._left_title.get_window_extent(canvas.get_renderer()) for axis in shown_axes(figure)]
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number])
            assert box.x1 <= figure.bbox.x1


def test_each_site_has_a_panel_with_its_column_of_r_and_its_arrival() -> None:
    methods = make_comparison()["methods"]
    for place, axis in enumerate(shown_axes(dice_across_stages(methods, SITES))):
        assert axis.get_title("left") == SITES[place]
        solid = [line for line in axis.lines if line.get_linestyle() == "-"]
        streams = [method for method in methods if method["name"] != "pooled"]
        for line, method in zip(solid, streams, strict=True):
            assert list(line.get_ydata()) == pytest.approx([100 * row[place] for row in method["R"]["dice"]])
        (dotted,) = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert set(dotted.get_xdata()) == {place + 1}


def test_names_beside_the_ends_of_fifteen_lines_stand_in_the_lines_order_and_cover_nothing() -> None:
    methods = make_comparison(methods=MANY)["methods"]
    figure = dice_across_stages(methods, SITES)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    panels = shown_axes(figure)
    assert len(panels) == len(SITES)
    boxes = []
    for place, axis in enumerate(panels):
        names = {text.get_text(): Text.get_window_extent(text, canvas.get_renderer()) for text in axis.texts[1:]}
        wanted = sorted((method["R"]["dice"][-1][place], method["name"]) for method in methods)
        assert sorted(names, key=lambda name: names[name].y0) == [name for _, name in wanted]
        boxes += names.values()
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.overlaps(axis.bbox) for axis in panels)
        assert box.x1 <= figure.bbox.x1
    dashed = [line for line in panels[0].lines if line.get_linestyle() == "--"]
    assert len(dashed) == len(TOGETHER) + 1, "and pooled"


def test_few_lines_are_told_by_the_legend_alone() -> None:
    figure = dice_across_stages(make_comparison()["methods"], SITES)
    assert [text.get_text() for axis in shown_axes(figure) for text in axis.texts] == ["arrives"] * 3


def test_curves_have_a_line_a_method_and_seed_stages_after_one_another_and_a_mark_at_the_best() -> None:
    methods = make_comparison(methods=("fine-tune", "ewc", "local"))["methods"]
    for number, method in enumerate(methods[:2]):
        method["curves"] = [
            {"seed": seed, "site": "site-2", "stage": stage, "steps": [2, 4, 5], "dice": [0.1, 0.5, 0.3 + number / 10]}
            for seed in (0, 1)
            for stage in (2, 3)
        ]
    figure = validation_curves(methods, SITES)
    (axis,) = shown_axes(figure)
    assert axis.get_title("left") == "site-2"
    drawn = [(list(line.get_xdata()), list(line.get_ydata()), line.get_markevery()) for line in axis.lines]
    for number in (0, 1):
        percent = [10, 50, 30 + 10 * number]
        assert drawn[4 * number : 4 * number + 4] == [([2, 4, 5], percent, [1]), ([7, 9, 10], percent, [1])] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fine-tune", "ewc"]


def test_pooled_is_a_dashed_line_at_its_final_value_even_of_a_single_site() -> None:
    for sites in (SITES, SITES[:1]):
        methods = make_comparison(sites)["methods"]
        final = next(method for method in methods if method["name"] == "pooled")["R"]["dice"][-1]
        for place, axis in enumerate(shown_axes(dice_across_stages(methods, sites))):
            (dashed,) = [line for line in axis.lines if line.get_linestyle() == "--"]
            assert set(dashed.get_ydata()) == {100 * final[place]}


def test_a_method_has_one_colour_in_every_chart_whichever_others_there_are() -> None:
    def colours(names: tuple[str, ...]) -> dict[str, set[str]]:
        methods = make_comparison(methods=names)["methods"]
        found: dict[str, set[str]] = {name: set() for name in names}
        for handle in dice_across_stages(methods, SITES).legends[0].get_lines():
            found[handle.get_label().removesuffix(" (breaks privacy)")].add(to_hex(handle.get_color()))
        marks = [line for line in utility_against_bytes(methods).axes[0].lines if line.get_marker() != "_"]
        for name, mark in zip(names, marks, strict=True):
            found[name].add(to_hex(mark.get_color()))
        return found

    everything, two = colours((*METHODS, "novel")), colours(("novel", "ewc"))
    assert all(len(found) == 1 for found in everything.values())
    assert len(set.union(*everything.values())) == len(METHODS) + 1
    assert two == {name: everything[name] for name in two}


def test_utility_stands_at_the_bytes_with_its_interval_and_hollow_where_privacy_breaks() -> None:
    methods = make_comparison()["methods"]
    axis = utility_against_bytes(methods).axes[0]
    marks = [line for line in axis.lines if line.get_marker() != "_"]
    for method, mark, (x, low, high) in zip(methods, marks, intervals(axis), strict=True):
        score = method["scores"]["dice"]
        assert (low, high) == pytest.approx((100 * score["low"], 100 * score["high"]))
        assert list(mark.get_ydata()) == pytest.approx([100 * score["value"]])
        assert list(mark.get_xdata()) == [x]
        megabytes = sum(method["bytes_out"].values()) / 1e6
        assert abs(math.log10(x / megabytes)) < 0.35  # neighbours make room for each other
        assert (to_hex(mark.get_markerfacecolor()) == "#ffffff") == method["breaks_privacy"]
    assert axis.get_xscale() == "log"
    legend = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert any("breaks privacy" in text for text in legend)


def test_marks_of_equal_bytes_stand_side_by_side_and_lone_ones_where_they_belong() -> None:
    methods = make_comparison(methods=("ser-diff", "fine-tune", "ewc", "pooled"))["methods"]
    for method in methods[:3]:
        method["bytes_out"] = {"arrays": 9_000_000}
    methods[3]["bytes_out"] = {"raw-scans": 700_000_000}
    places = [x for x, _, _ in intervals(utility_against_bytes(methods).axes[0])]
    assert places[3] == 700
    assert places[1] == pytest.approx(9)
    assert all(one < other for one, other in pairwise(places))


def test_a_method_that_sends_nothing_has_its_place_on_the_logarithm_and_says_so() -> None:
    methods = make_comparison(methods=("ser-diff", "local"))["methods"]
    methods[1]["bytes_out"] = {}
    figure = utility_against_bytes(methods)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"local {100 * methods[1]['scores']['dice']['value']:.1f} (no bytes)" in texts
    assert svg(figure)


@pytest.mark.parametrize("equal_bytes", [False, True])
@pytest.mark.parametrize("names", [METHODS, MANY])
def test_labels_cover_neither_each_other_nor_intervals_and_stay_inside(
    names: tuple[str, ...], equal_bytes: bool
) -> None:
    methods = make_comparison(methods=names)["methods"]
    if equal_bytes:
        for method in methods:
            method["bytes_out"] = {"arrays": 9_000_000}
    figure = utility_against_bytes(methods)
    axis = figure.axes[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axis.texts]  # without its line
    assert len(boxes) == len(methods)
    bars = [[axis.transData.transform((x, end)) for end in (low, high)] for x, low, high in intervals(axis)]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.overlaps(Bbox(bar)) for bar in bars)
        assert axis.bbox.x0 <= box.x0 < box.x1 <= axis.bbox.x1


def test_a_study_draws_its_lines_with_intervals_and_skips_what_is_missing() -> None:
    axis = study_plot(make_study("line")["plot"]).axes[0]
    assert intervals(axis) == [(0.01, 35.0, 46.0), (0.1, 38.0, 49.5)]
    first, second = (line for line in axis.lines if line.get_marker() != "_")
    assert list(second.get_ydata()) == [30.0, 31.5, 33.0]
    assert list(first.get_ydata())[:2] == [41.5, 43.2]
    assert math.isnan(list(first.get_ydata())[2])
    assert (axis.get_xlabel(), axis.get_ylabel(), axis.get_xscale()) == ("λ", "Dice %", "log")


def test_a_study_s_points_have_their_texts_and_no_line() -> None:
    axis = study_plot(make_study("scatter")["plot"]).axes[0]
    assert sorted(text.get_text() for text in axis.texts) == ["0.01", "0.1"]
    assert {line.get_linestyle() for line in axis.lines if line.get_marker() != "_"} == {"None"}
    assert axis.get_xscale() == "linear"


def test_a_study_s_bars_are_as_high_as_their_values_and_named() -> None:
    axis = study_plot(make_study("bars")["plot"]).axes[0]
    first, second = (container for container in axis.containers if isinstance(container, BarContainer))
    assert [bar.get_height() for bar in second] == [30.0, 31.5, 33.0]
    assert [bar.get_height() for bar in first][:2] == [41.5, 43.2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["none", "some", "all"]
    for (x, _, _), bar in zip(intervals(axis), first, strict=False):
        assert bar.get_x() < x < bar.get_x() + bar.get_width()


def test_pictures_are_the_same_text_for_the_same_values_without_a_date() -> None:
    methods = make_comparison(methods=METHODS[:2])["methods"]
    for build in (lambda: heat_maps(methods, SITES), lambda: utility_against_bytes(methods)):
        assert svg(build()) == svg(build())
    prefix, data = svg(utility_against_bytes(methods)).split(",")
    assert prefix == "data:image/svg+xml;base64"
    text = base64.b64decode(data).decode()
    assert text.rstrip().endswith("</svg>")
    assert "dc:date" not in text


def test_dollars_in_a_site_s_name_are_no_mathematics() -> None:
    sites = ["$\\frac$", "b", "c"]
    methods = make_comparison(sites, methods=METHODS[:1])["methods"]
    assert svg(heat_maps(methods, sites))
    assert svg(dice_across_stages(methods, sites))


def test_a_site_that_left_has_blank_cells_and_a_line_that_ends_there() -> None:
    sites = ("north", "west")
    (method,) = make_comparison(sites, ["fine-tune"])["methods"]
    method["R"]["dice"] = [[0.1, 0.1], [0.8, 0.2], [None, 0.6]]
    method |= {"stages": ["untrained", "March", "May"], "arrivals": [1, 2], "deployed": [1, 2]}
    (panel,) = heat_maps([method], sites).axes
    assert [text.get_text() for text in panel.texts] == ["10.0", "10.0", "80.0", "20.0", "60.0"]
    first, second = dice_across_stages([method], sites).axes
    lines = [line for line in first.lines if len(line.get_xdata()) == 3]
    assert math.isnan(lines[0].get_ydata()[2])
    assert lines[0].get_ydata()[1] == pytest.approx(80.0)
    arrivals = [axis.get_lines()[-1].get_xdata()[0] for axis in (first, second)]
    assert arrivals == [1, 2]
