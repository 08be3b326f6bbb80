"""The page and the table of hospitals' statistics."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from told_statistics import CONFIG, Answer, hospital, too_few

from fedserdiff.report.statistics import render_statistics
from fedserdiff.statistics.summary import statistics_csv, summarised

NASTY = "<script>alert('x')</script>&\"north\""


class Page(HTMLParser):
    """The page as a reader meets it: cells of its tables, and what pictures say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.said: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.references += [str(values[key]) for key in ("src", "href") if key in values]
        if "aria-label" in values and tag == "svg":
            self.said.append(str(values["aria-label"]))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self._in) and "title" not in self._in:
            self.tables[-1][-1][-1] += data.strip()


def summary(told: dict[str, Answer], refused: dict[str, str] | None = None) -> dict[str, Any]:
    return summarised(told, refused or {}, {}, CONFIG, "own")


@pytest.fixture
def told() -> dict[str, Answer]:
    """Ten of north's 50 patients show no TC; east has 100 patients."""
    return {
        "north": hospital(50, volumes={0: [2, 0, 0, 8]}, intensities={2: [250, 750]}),
        "east": hospital(100),
        "west": too_few(),
    }


def test_the_table_tells_patients_and_how_many_show_each_region(told: dict[str, Answer]) -> None:
    head, *rows = Page(render_statistics(summary(told, {"south": "did not answer in time"}))).tables[0]
    assert head[:5] == ["Hospital", "Patients (about)", "with TC", "with WT", "with ET"]
    assert rows[0][:5] == ["north", "50", "40", "50", "50"]
    assert rows[1][:5] == ["east", "100", "100", "100", "100"]
    assert rows[2:] == [
        ["west", "fewer than 5 training patients"],
        ["south", "no statistics: it did not answer in time"],
    ]


def test_pictures_say_what_they_show_and_distances_stand_beside_them(told: dict[str, Answer]) -> None:
    page = Page(render_statistics(summary(told)))
    assert "north: none: 20 %; 5 to 20: 80 %" in page.said
    assert "All together: none: 7 %; 5 to 20: 93 %" in page.said
    head, together, north, east = page.tables[1]
    assert head == ["Hospital", "TC", "WT", "ET"]
    assert together == ["All together", "", "", ""]
    far = (0.5 * (0.2 * np.log2(0.2 / 0.1) + 0.8 * np.log2(0.8 / 0.9) + np.log2(1 / 0.9))) ** 0.5
    assert north == ["north", f"{far:.2f}", "0.00", "0.00"]
    assert east[1:] == north[1:]


def test_names_are_text_and_the_page_needs_nothing_beside_it(told: dict[str, Answer]) -> None:
    text = render_statistics(summary({NASTY: told["north"], "east": told["east"]}, {NASTY + "2": "<b>failed</b>"}))
    page = Page(text)
    assert page.tables[0][1][0] == NASTY
    assert {"script", "b", "img", "link"}.isdisjoint(page.tags)
    assert page.references == []
    assert "url(" not in text


def test_fifty_hospitals_have_a_row_each_in_every_table(told: dict[str, Answer]) -> None:
    values = summary(told)
    values["sites"] = {f"hospital-{n}": values["sites"]["north"] for n in range(50)}
    page = Page(render_statistics(values | {"too_few": []}))
    assert [len(table) for table in page.tables] == [51, 52, 52, 52, 52]


def test_without_any_answer_there_is_a_page_that_says_so() -> None:
    page = render_statistics(summary({}, {"north": "did not answer in time"}))
    assert "No hospital reported statistics" in page
    assert "north reported nothing: it did not answer in time." in page


def test_a_bar_is_as_high_as_its_share_of_the_highest(told: dict[str, Answer]) -> None:
    """North's TC: a fifth, and four fifths of a picture whose highest bar, east's, is all of its patients."""
    text = render_statistics(summary(told))
    (path,) = re.findall(r'aria-label="north: none: 20 %[^"]*".*?class="bars" d="([^"]*)"', text)
    tops = [float(top) for top in re.findall(r"V([\d.]+)H", path)]
    assert 36 - np.array(tops) == pytest.approx([36 * 0.2, 36 * 0.8], abs=0.1)


def test_every_figure_is_a_row_of_the_table(told: dict[str, Answer]) -> None:
    rows = list(csv.DictReader(io.StringIO(statistics_csv(summary(told)).decode())))
    assert list(rows[0]) == ["site", "quantity", "of", "low", "high", "value"]
    cells = 3 * 8 + 2 * 8 + 2 * 4 * 24
    assert len(rows) == 2 * (1 + cells)
    assert {row["site"] for row in rows} == {"north", "east"}
    north = [row for row in rows if row["site"] == "north"]
    assert north[0] == {"site": "north", "quantity": "patients", "of": "", "low": "", "high": "", "value": "50"}
    tc = [(r["low"], r["high"], int(r["value"])) for r in north if (r["quantity"], r["of"]) == ("volumes", "tc")]
    assert tc[0] == ("0.0", "0.0", 10)
    assert tc[3] == ("5.0", "20.0", 40)
    assert tc[-1] == ("200.0", "", 0)
    t2 = [float(r["value"]) for r in north if (r["quantity"], r["of"]) == ("intensities", "t2")]
    assert (t2[:2], sum(t2)) == ([0.25, 0.75], 1)


def test_what_is_told_together_is_by_patient_and_the_summary_is_json(told: dict[str, Answer]) -> None:
    values = json.loads(json.dumps(summary(told), allow_nan=False))
    assert values["pooled"]["patients"] == 150
    assert values["pooled"]["volumes"]["tc"][:4] == pytest.approx([10 / 150, 0, 0, 140 / 150])
    assert values["pooled"]["intensities"]["t2"][:4] == pytest.approx([0.25 / 3, 0.25, 0, 2 / 3])
    assert values["too_few"] == ["west"]
    assert values["quantities"][0]["cells"][-1] == [200.0, None]
