"""One page shows results of one set of scans, by one version, and corrects for all comparisons that it shows."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from comparisons import make_comparison, make_study
from rich.console import Console

from fedserdiff.errors import ConfigError
from fedserdiff.experiments.comparison import Setting, write_page
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.origin import installed_versions
from fedserdiff.settings.sources import make_settings

SCANS = {"0": {"north": "a", "west": "b"}}
ONCE = {"first": "a", "second": "b", "value": 5.0, "low": 1.0, "high": 9.0, "seeds": 3, "patients": 9, "p": 0.02}


def study(name: str = "adapter", **changes: Any) -> dict[str, Any]:
    about = {"versions": installed_versions(), "scans": SCANS, "verdicts": [dict(ONCE)]}
    return {**make_study(), "name": name, "title": f"The study {name}", **about, **changes}


def comparison(**changes: Any) -> dict[str, Any]:
    about = {"versions": installed_versions(), "scans": SCANS, "verdicts": [dict(ONCE)]}
    made = make_comparison(methods=["ser-diff", "fine-tune"])
    return {**made, **about, **changes, "data": {**made["data"], "leak": None}}


def page_of(folder: Path, made: dict[str, Any], phantom: bool = False) -> tuple[str, str]:
    """Write the page of a call that made this; return it, and what the call said."""
    (folder / "studies").mkdir(exist_ok=True)
    console = Console(record=True, quiet=False, width=300, file=(folder / "said.txt").open("w"))
    federation = None if phantom else Path("ours.toml")
    write_page(folder, Setting(make_settings("smoke"), [0], federation, 2, console, Cache(folder / "cache")), [made])
    return (folder / "report.html").read_text(), console.export_text()


@pytest.mark.parametrize(
    ("earlier", "why"),
    [
        ({"scans": {"0": {"north": "a", "west": "rolled"}}}, "from other scans, or another order, of west"),
        ({"scans": {"0": {"north": "a"}}}, "from other scans, or another order, of west"),
        ({"scans": {"0": {"west": "b", "north": "a"}}}, "from other scans, or another order, of north, west"),
        ({"scans": {"1": {"north": "a", "west": "other"}}}, "from other scans, or another order, of west"),
        ({"scans": {}}, "it does not record its origin"),
        ({"scored": None}, "it does not record its origin"),
        ({"versions": {**installed_versions(), "torch": "1.0"}}, "torch 1.0 then, "),
    ],
    ids=str,
)
def test_an_earlier_result_of_other_scans_or_versions_is_not_shown(
    tmp_path: Path, earlier: dict[str, Any], why: str
) -> None:
    page_of(tmp_path, study(**earlier))
    before = (tmp_path / "studies" / "adapter.json").read_bytes()
    page, said = page_of(tmp_path, comparison())
    assert "The study adapter" not in page
    assert "Scores at the end" in page
    assert "adapter.json is kept but not shown: " in said
    assert why in said
    assert (tmp_path / "studies" / "adapter.json").read_bytes() == before


def test_an_earlier_comparison_that_does_not_say_who_lost_is_named_and_not_shown(tmp_path: Path) -> None:
    old = comparison()
    page_of(tmp_path, old)
    for method in old["methods"]:
        for key in ("fairness", "group", "needs", "dice_by_region"):
            del method[key]
    (tmp_path / "comparison.json").write_text(json.dumps(old))
    page, said = page_of(tmp_path, study())
    assert "Scores at the end" not in page
    assert "comparison.json is kept but not shown: it does not record the worst hospital" in said


def test_a_comparison_s_table_has_a_row_a_method_with_its_group_needs_worst_hospital_and_regions(
    tmp_path: Path,
) -> None:
    made = comparison()
    page_of(tmp_path, made)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["ser-diff", "fine-tune"]
    for row, method in zip(rows, made["methods"], strict=True):
        assert (row["group"], row["needs"]) == ("in-turn", "")
        assert row["worst hospital"] == method["fairness"]["worst_site"]
        scores = {
            "dice": method["scores"]["dice"],
            "worst hospital dice": method["fairness"]["worst"],
            "spread": method["fairness"]["spread"],
            **{f"dice {region}": score for region, score in method["dice_by_region"].items()},
        }
        for name, score in scores.items():
            assert [float(row[cell]) for cell in (name, f"{name} low", f"{name} high")] == list(score.values())


def test_a_comparison_of_other_scans_goes_with_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "cases.png").write_bytes(b"\x89PNG\r\n\x1a\nof before")
    (tmp_path / "volumes.html").touch()
    page, _ = page_of(tmp_path, comparison())
    assert "volumes.html" in page
    page, said = page_of(tmp_path, study(scans={"0": {"north": "a", "west": "rolled"}}))
    assert "Scores at the end" not in page
    assert "volumes.html" not in page
    assert "comparison.json is kept but not shown" in said


def test_a_study_of_more_phantom_hospitals_or_of_other_seeds_stands_beside_the_comparison(tmp_path: Path) -> None:
    more = {"0": {"north": "a", "west": "b", "south": "c"}, "1": {"north": "x", "west": "y", "south": "z"}}
    page_of(tmp_path, study(scans=more), phantom=True)
    page, said = page_of(tmp_path, comparison(), phantom=True)
    assert "The study adapter" in page
    assert "not shown" not in said
    changed = {"0": {"north": "a", "west": "rolled"}}
    _, said = page_of(tmp_path, comparison(scans=changed), phantom=True)
    assert "from other scans, or another order, of west" in said


def test_every_comparison_of_a_page_counts_in_the_correction_of_each(tmp_path: Path) -> None:
    """Two comparisons have p = 0.02: alone it stays 0.02, among two it is 0.04, among three 0.06."""

    def told(name: str) -> str:
        text: str = json.loads((tmp_path / name).read_text())["verdicts"][0]["text"]
        return text

    page, _ = page_of(tmp_path, comparison())
    assert "a beats b" in page
    page_of(tmp_path, study("adapter"))
    assert "adjusted p = 0.04" in told("comparison.json")
    page, _ = page_of(tmp_path, study("lambda"))
    for name in ("comparison.json", "studies/adapter.json", "studies/lambda.json"):
        assert told(name).startswith("a or b: undecided")
    assert "a beats b" not in page


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_text('{"half')
    with pytest.raises(ConfigError, match=r"comparison\.json: is damaged; move it away"):
        page_of(tmp_path, study())
