import copy
import io
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from comparisons import BREAKING, MANY, METHODS, TOGETHER, make_comparison, make_study
from parsed_page import Page

from fedserdiff.report import page as page_module
from fedserdiff.report.page import render_page

GROUPS = {
    "Alone: each hospital by itself": ["local"],
    "Together: all hospitals train from the start": list(TOGETHER),
    "In turn: hospitals arrive one after another": [
        name for name in MANY if name not in (*TOGETHER, *BREAKING, "local")
    ],
    "With raw scans of other hospitals": list(BREAKING),
}
"""Titles on the page, and which of `MANY` stand under each."""


def grouped(rows: list[list[str]]) -> dict[str, list[str]]:
    """The methods under each title of a table."""
    found: dict[str, list[str]] = {}
    for row in rows[1:]:
        if len(row) == 1:
            found[row[0]] = []
        else:
            list(found.values())[-1].append(row[0].removesuffix(" breaks privacy"))
    return found


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−") if value else "0.0"


@pytest.fixture(scope="module")
def comparison() -> dict[str, Any]:
    return make_comparison()


@pytest.fixture(scope="module")
def studies() -> list[dict[str, Any]]:
    return [make_study(kind) for kind in ("line", "scatter", "bars")]


@pytest.fixture(scope="module")
def source(comparison: dict[str, Any], studies: list[dict[str, Any]]) -> str:
    picture = io.BytesIO()
    matplotlib.image.imsave(picture, np.zeros((2, 3)), format="png")
    return render_page(comparison, studies, picture.getvalue())


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip writing charts: they have tests of their own."""
    monkeypatch.setattr(page_module, "svg", lambda figure: "data:image/svg+xml;base64,AAAA")


def test_scores_of_every_method_are_the_input_s(page: Page, comparison: dict[str, Any]) -> None:
    assert sum(len(row) > 1 for row in page.tables["scores"]) == 1 + len(METHODS)
    for method in comparison["methods"]:
        dice, hd95 = method["scores"]["dice"], method["scores"]["hd95"]
        expected = [
            f"{percent(dice['value'])} [{percent(dice['low'])}, {percent(dice['high'])}]",
            f"{hd95['value']:.1f} [{hd95['low']:.1f}, {hd95['high']:.1f}]",
        ]
        for key in ("bwt", "fwt", "forgetting"):
            score = method["scores"][key]
            ends = score and [signed(score[end]) for end in ("value", "low", "high")]
            expected.append(f"{ends[0]} [{ends[1]}, {ends[2]}]" if ends else "–")
        assert page.row("scores", method["name"]) == expected


def test_who_lost_is_named_with_its_dice_the_spread_and_dice_by_region(page: Page, comparison: dict[str, Any]) -> None:
    assert page.tables["fairness"][0] == [
        "Method", "Worst hospital", "Its Dice %", "Spread over hospitals Dice points",
        "TC Dice %", "WT Dice %", "ET Dice %",
    ]  # fmt: skip
    for method in comparison["methods"]:
        fairness, by_region = method["fairness"], method["dice_by_region"]
        scores = [fairness["worst"], fairness["spread"], by_region["tc"], by_region["wt"], by_region["et"]]
        shown = [f"{percent(s['value'])} [{percent(s['low'])}, {percent(s['high'])}]" for s in scores]
        assert page.row("fairness", method["name"]) == [fairness["worst_site"], *shown]


def test_a_method_says_what_it_needs_its_bytes_by_kind_and_in_total_and_its_minutes(page: Page) -> None:
    assert page.tables["costs"][0] == ["Method", "Needs to know", "Bytes", "Minutes", "Bytes by kind of record"]
    of_kind = "arrays 9.0 MB, error-maps 765.4 kB, metrics 4.3 kB, site 99 B"
    assert page.row("costs", "ser-diff") == ["nothing", "9.8 MB", "3.4", of_kind]
    needs, total, _, sent = page.row("costs", "rehearsal")
    assert (needs, total) == ("raw data of other hospitals", "569.6 MB")
    assert sent.startswith("raw-scans 560.0 MB, arrays ")
    assert page.row("costs", "local") == ["nothing", "4.4 kB", "10.4", "metrics 4.3 kB, site 99 B"]


@pytest.mark.usefixtures("no_charts")
def test_several_needs_stand_beside_each_other_and_nothing_sent_is_said_to_be() -> None:
    values = make_comparison(methods=("ewc",))
    values["methods"][0] |= {"needs": ["raw data", "which hospital"], "bytes_out": {}}
    assert Page(render_page(values, [], None)).row("costs", "ewc") == ["raw data; which hospital", "0 B", "3.4", "–"]


@pytest.mark.usefixtures("no_charts")
def test_fifteen_methods_stand_under_four_titles_in_every_table() -> None:
    shown = Page(render_page(make_comparison(methods=MANY), [], None))
    assert len(MANY) == 15
    for table in ("scores", "fairness", "costs", "per-site", "per-site 2"):
        assert grouped(shown.tables[table]) == GROUPS
    for name in (*TOGETHER, "pooled"):
        assert shown.row("scores", name)[2:] == ["–", "–", "–"], "one stage has neither BWT, FWT nor forgetting"


@pytest.mark.usefixtures("no_charts")
def test_a_group_without_methods_has_no_title() -> None:
    shown = Page(render_page(make_comparison(methods=("pooled", "ewc")), [], None))
    assert list(grouped(shown.tables["scores"])) == [list(GROUPS)[2], list(GROUPS)[3]]


@pytest.mark.usefixtures("no_charts")
def test_heat_maps_are_of_methods_of_several_stages_and_none_are_of_one_stage_alone() -> None:
    shown = Page(render_page(make_comparison(methods=("ser-diff", "fed-avg", "pooled")), [], None))
    (alt,) = [picture["alt"] for picture in shown.pictures if picture["alt"].startswith("Heat maps")]
    assert "(ser-diff)" in alt
    at_once = Page(render_page(make_comparison(methods=("fed-avg", "pooled")), [], None))
    assert [picture["alt"].split(":")[0] for picture in at_once.pictures] == [
        "Final mean Dice against bytes that left the hospitals"
    ]
    assert "Each site across the stages" not in at_once.text


@pytest.mark.usefixtures("no_charts")
def test_verdicts_are_a_list_below_the_answer_with_their_rule() -> None:
    values = make_comparison(methods=("ewc", "fine-tune"))
    assert "verdicts" not in render_page(values, [], None).split("</style>")[1]
    values |= {"verdicts": [{"text": "ewc beats fine-tune: <b>"}, {"text": "b or a"}], "rule": "By Holm."}
    text = Page(render_page(values, [], None)).text
    places = [text.index(part) for part in ("Replay forgets less", "fine-tune: <b>", "b or a", "By Holm.", "The data")]
    assert places == sorted(places)


@pytest.mark.usefixtures("no_charts")
@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1.0 kB"), (999_960, "1.0 MB"), (2_500_000_000, "2.5 GB")],
)
def test_a_unit_fits_its_number(count: float, text: str) -> None:
    values = make_comparison(methods=("ewc",))
    values["methods"][0]["bytes_out"] = {"arrays": count}
    assert Page(render_page(values, [], None)).row("costs", "ewc")[1] == text


def test_sites_have_their_scores_at_the_end_of_the_stream(page: Page, comparison: dict[str, Any]) -> None:
    for method in comparison["methods"]:
        dice, hd95 = method["per_site"]["dice"], method["per_site"]["hd95"]
        assert page.row("per-site", method["name"]) == [percent(value) for value in dice.values()]
        assert page.row("per-site 2", method["name"]) == [f"{value:.1f}" for value in hd95.values()]


def test_a_badge_stands_beside_exactly_the_methods_that_break_privacy(page: Page, source: str) -> None:
    named = []
    for name in ("scores", "fairness", "costs", "per-site", "per-site 2"):
        marked = {row[0].removesuffix(" breaks privacy") for row in page.tables[name] if "breaks privacy" in row[0]}
        assert marked == set(BREAKING)
        named.append(marked)
    in_studies = [
        cell for table, rows in page.tables.items() if table.startswith("study") for row in rows for cell in row
    ]
    assert {cell for cell in in_studies if "breaks privacy" in cell} == {"rehearsal breaks privacy"}
    assert source.count('class="badge"') == len(BREAKING) * (len(named) + 1) + 3  # summaries; a row in each study


@pytest.mark.usefixtures("no_charts")
def test_a_badge_needs_the_whole_name_and_no_comparison() -> None:
    study = make_study()
    study["columns"] = ["x", "pooled", "unpooled", "pooled-ish"]
    text = Page(render_page(None, [study], None))
    assert text.tables["study 0"][0] == ["x", "pooled breaks privacy", "unpooled", "pooled-ish"]


def test_nothing_is_fetched_and_nothing_runs(page: Page) -> None:
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)


def test_styles_fetch_nothing(source: str) -> None:
    style = source.split("<style>")[1].split("</style>")[0]
    assert "@media print" in style
    assert "url(" not in style
    assert "@import" not in style


def test_the_head_says_which_data_cases_seeds_and_versions(page: Page) -> None:
    head = page.text.split("Replay forgets less")[0]
    data = "Phantom data of the stream patients"
    for fact in (data, "profile laptop", "4 + 5 + 6 = 15 test cases", "seeds 0, 1, 2", "torch 2.13.0"):
        assert fact in head
    assert page.tables["cases"][1:] == [
        ["site-1", "brats2020", "16", "4"],
        ["site-2", "brats2021", "17", "5"],
        ["site-3", "brats2023-gli", "18", "6"],
    ]


def test_a_comparison_on_validation_patients_says_so_in_its_head_and_under_every_figure() -> None:
    values = make_comparison()
    for number, cases in enumerate(values["data"]["cases"].values()):
        cases["validation"] = 7 + number
    values["data"]["leak"] = "Leaking: scores are too good"
    shown = Page(render_page({**values, "scored": "validation"}, [], b"picture"))
    assert "7 + 8 + 9 = 24 validation cases, seeds 0, 1, 2, leaking into the validation set" in shown.text
    assert "Validation cases as examples" in shown.text
    assert "test cases, seeds" not in shown.text
    assert shown.tables["cases"] == [
        ["Site", "Release", "Training", "Validation", "Test"],
        ["site-1", "brats2020", "16", "7", "4"],
        ["site-2", "brats2021", "17", "8", "5"],
        ["site-3", "brats2023-gli", "18", "9", "6"],
    ]


def test_the_order_is_answer_methods_sites_charts_examples_studies_notes(page: Page) -> None:
    parts = (
        "Replay forgets less",
        "Scores at the end",
        "Fairness at the end",
        "the bytes that left the hospitals in a run",
        "Dice % at the end",
        "R: Dice %",
        "Dice % of each site across",
        "Final mean Dice over sites",
        "Test cases as examples",
        "A study of line",
        "A study of bars",
        "2,000 bootstrap",
    )
    places = [page.text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_picture_has_a_text_and_a_caption_of_data_seeds_and_cases(page: Page) -> None:
    assert len(page.pictures) == len(page.captions) == 3 + 1 + 3
    assert [picture["src"].split(";")[0] for picture in page.pictures].count("data:image/png") == 1
    assert all(len(picture["alt"]) > 20 for picture in page.pictures)
    for caption in page.captions[:4]:
        assert "4 + 5 + 6 = 15 test cases, seeds 0, 1, 2" in caption
    for caption in page.captions[4:]:
        assert "seed 0, 12 validation cases" in caption


@pytest.mark.usefixtures("no_charts")
def test_the_warning_is_of_phantoms_only() -> None:
    warning = "Phantom scores are not BraTS scores"
    assert warning in render_page(make_comparison(phantom=True), [], None)
    assert warning not in render_page(make_comparison(phantom=False), [], None)


def test_studies_keep_their_rows_with_integers_texts_and_gaps(page: Page, studies: list[dict[str, Any]]) -> None:
    tables = [rows for name, rows in page.tables.items() if name.startswith("study")]
    assert len(tables) == len(studies)
    for rows in tables:
        assert rows == [
            ["λ", "Dice % on site-1", "cases", "method"],
            ["0.01", "41.5", "12", "ser-diff"],
            ["0.1", "43.2", "7", "rehearsal breaks privacy"],
            ["1", "–", "−3", "fine-tune"],
        ]
    for study in studies:
        for sentence in (study["question"], *study["sentences"]):
            assert page.text.count(sentence) == len(studies)


@pytest.mark.usefixtures("no_charts")
def test_names_from_outside_are_text_and_never_tags() -> None:
    sites = ["<b>&x", '"><script>alert(1)</script>', "c"]
    values, study = make_comparison(sites), make_study()
    values["data"]["left_out"] = ["<i>patient</i> & co"]
    values["notes"] = values["answer"] = ["1 < 2 & <b>bold</b>"]
    study["columns"][1] = study["title"] = study["rows"][0][0] = "<u>&"
    text = render_page(values, [study], None)
    shown = Page(text)
    assert not {"b", "i", "u", "script"} & set(shown.tags)
    assert shown.tables["per-site"][0][1:] == sites
    assert shown.tables["study 6"][1][0] == "<u>&"
    assert shown.row("fairness", "ser-diff")[0] == "<b>&x"
    assert "<i>patient</i> & co" in shown.text
    assert any("<b>&x" in picture["alt"] for picture in shown.pictures)


@pytest.mark.usefixtures("no_charts")
def test_page_points_to_the_volumes_beside_it_where_there_are_any() -> None:
    without, beside = (render_page(make_comparison(), [], b"picture", name) for name in (None, "volumes.html"))
    assert "volumes.html" not in without
    assert set(Page(beside).references) - set(Page(without).references) == {"volumes.html"}


@pytest.mark.usefixtures("no_charts")
def test_leak_stands_in_the_head_under_every_picture_and_with_the_cases_that_were_kept() -> None:
    values, study = make_comparison(phantom=False), make_study()
    clean = render_page(values, [study], b"picture")
    assert "eaking" not in clean
    values["data"] |= {"leak": "Leaking: 2 cases & more", "kept": ["west: X is <Y>"]}
    study |= {"leak": "Leaking: 1 case", "data": f"{study['data']}, leaking into the test set"}

    text = render_page(values, [study], b"picture")

    head = Page(f"<body>{text.partition('<header>')[2].partition('</header>')[0]}</body>")
    assert "Leaking: 2 cases & more." in head.text
    assert '<p class="warning" id="leak">' in text
    page = Page(text)
    assert len(page.captions) == len(page.pictures) > 4
    assert all("leaking into the test set" in caption for caption in page.captions)
    assert "west: X is <Y>" in page.text
    assert page.text.count("Leaking: 1 case.") == 1


@pytest.mark.usefixtures("no_charts")
def test_missing_and_odd_scores_are_shown_as_such() -> None:
    values = make_comparison(methods=("ewc",))
    method = values["methods"][0]
    method["scores"]["bwt"] = None
    method["scores"]["fwt"] = {"value": -0.0001, "low": None, "high": None}
    method["per_site"]["hd95"]["site-2"] = None
    text = render_page(values, [], None)
    assert Page(text).row("scores", "ewc")[2:4] == ["–", "0.0"]
    assert Page(text).row("per-site 2", "ewc")[1] == "–"
    assert "None" not in text
    assert "nan" not in Page(text).text


@pytest.mark.parametrize("count", [1, 10])
def test_one_site_and_many_sites_and_one_seed(count: int) -> None:
    sites = [f"hospital-{place}" for place in range(count)]
    shown = Page(render_page(make_comparison(sites, methods=("ser-diff", "pooled"), seeds=(0,)), [], None))
    assert shown.tables["per-site"][0] == ["Method", *sites]
    assert len(shown.tables["cases"]) == 1 + count
    assert "brats2023-gli" in shown.text  # releases are not one a site here, and still named
    assert "seed 0." in shown.text
    assert "Means over seeds" not in shown.text


@pytest.mark.usefixtures("no_charts")
def test_heat_maps_of_many_sites_are_several_pictures_with_every_method_in_one() -> None:
    sites = [f"hospital-{place}" for place in range(10)]
    shown = Page(render_page(make_comparison(sites), [], None))
    alts = [picture["alt"] for picture in shown.pictures if picture["alt"].startswith("Heat maps")]
    assert len(alts) > 1
    named = [name for alt in alts for name in alt.split("(")[1].split(")")[0].split(", ")]
    assert sorted(named) == sorted(set(METHODS) - {"pooled"})
    assert sum(f"of {len(alts)})" in caption for caption in shown.captions) == len(alts)


@pytest.mark.usefixtures("no_charts")
def test_studies_alone_are_a_page_and_so_is_nothing() -> None:
    shown = Page(render_page(None, [make_study()], None))
    assert list(shown.tables) == ["study 0"]
    assert "Phantom scores" not in shown.text
    assert "Nothing was measured" not in shown.text
    assert "Nothing was measured" in Page(render_page(None, [], None)).text


def test_the_same_input_gives_the_same_page_and_stays_as_it_was() -> None:
    values, study = make_comparison(methods=("ser-diff", "pooled")), make_study("bars")
    before = copy.deepcopy((values, study))
    assert render_page(values, [study], None) == render_page(values, [study], None)
    assert (values, study) == before


def test_a_page_begins_with_its_document_type(source: str) -> None:
    assert source.startswith("<!DOCTYPE html>")


def test_a_page_shows_validation_while_training_where_there_was_any() -> None:
    made = make_comparison(methods=("fine-tune", "ewc"))
    assert "Validation during training" not in render_page(made, [], None)
    curve = {"seed": 1, "site": "site-2", "stage": 2, "steps": [5, 10, 15], "dice": [0.25, 0.875, 0.5]}
    made["methods"][1]["curves"] = [curve]
    made["data"]["cases"]["site-2"]["validation"] = 3
    page = Page(render_page(made, [], None))
    assert "Validation during training" in page.text
    (picture,) = [one for one in page.pictures if "validation" in one["alt"]]
    assert "ewc 87.5 % at site-2, stage 2, seed 1" in picture["alt"]
    (caption,) = [one for one in page.captions if "validation" in one]
    assert "0 + 3 + 0 validation cases, seeds 0, 1, 2" in caption
