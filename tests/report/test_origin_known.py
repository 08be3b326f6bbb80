"""Scores on scans of unknown origin, and beside them those of known origin, on pages and in tables."""

import io
from typing import Any

import pytest
from comparisons import make_comparison
from parsed_page import Page
from rich.console import Console

from fedserdiff.report import page as page_module
from fedserdiff.report.page import render_page
from fedserdiff.report.tables import print_comparison, print_results
from strategies.results import Results


def comparison() -> dict[str, Any]:
    return make_comparison(methods=("ser-diff-plus", "ser-diff"))


def test_on_the_page_dice_of_known_origin_stands_under_that_of_unknown_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "svg", lambda figure: "data:image/svg+xml;base64,AAAA")
    made = comparison()
    page, scores = Page(render_page(made, [], None)), made["methods"][0]["scores"]
    dice, known = (
        f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"
        for score in (scores["dice"], scores["known_origin"])
    )
    assert page.row("scores", "ser-diff-plus")[0] == f"{dice} origin known: {known}"
    assert "origin known" not in page.row("scores", "ser-diff")[0]


def test_in_the_table_of_a_comparison_too() -> None:
    made = comparison()
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(console, made)
    text = console.export_text()
    assert text.count("origin known: ") == 1
    assert f"origin known: {100 * made['methods'][0]['scores']['known_origin']['value']:.1f}" in text
    assert max(map(len, text.splitlines())) <= 80


def printed(unknown_origin: dict[str, Any] | None) -> str:
    """The tables of a run of two hospitals with two test cases each."""
    run = Results(
        "fedbn", 3, ["north", "west"], [1, 1], {site: {"training": 8, "test": 2} for site in ("north", "west")}
    )
    for row in range(2):
        run.stages.append(["untrained", "together"][row])
        scores = {f"refined.{m}.{r}": 0.1 for m in ("dice", "hd95") for r in ("tc", "wt", "et")}
        run.rows.append({site: scores | {k.replace("refined", "coarse"): 0.2 for k in scores} for site in run.sites})
    values = run.to_dict() | ({} if unknown_origin is None else {"unknown_origin": unknown_origin})
    console = Console(width=120, record=True, file=io.StringIO())
    print_results(console, values, "phantom")
    return " ".join(console.export_text().split())


def test_a_run_says_what_scans_of_unknown_origin_score_and_how_many_were_clear() -> None:
    text = printed(
        {
            "dice": {"north": 0.5, "west": 0.7},
            "recognised": {"north": 2, "west": 1},
            "averaged": {"north": 0, "west": 1},
        }
    )
    assert "Their mean Dice is 60.0 %; 3 of 4 resemble their own hospital's most, and for 1 two are averaged." in text
    assert "The tables assume that the hospital is known." in text


def test_a_run_that_has_not_scored_them_says_what_its_scores_assume() -> None:
    assert "so scores assume that the hospital of each scan is known." in printed(None)
