import io
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from comparisons import BREAKING, make_comparison, make_study
from example_cases import GRID, example
from rich.console import Console

from fedserdiff.report.examples import Example
from fedserdiff.report.plots import plot_examples, plot_methods
from fedserdiff.report.tables import print_comparison, print_results, print_study
from strategies.evaluation_plan import EvaluationPlan
from strategies.results import Results


def results(rows: int, deployed: list[int] | None = None) -> Results:
    """Two sites; Dice of a row is 0.1 × stage + 0.01 × site, HD95 ten times its percent."""
    cases = {site: {"training": 8, "test": 2} for site in ("north", "west")}
    filled = Results("ser-diff", 3, ["north", "west"], deployed or [rows - 1] * 2, cases)
    for stage in range(rows):
        filled.stages.append("untrained" if stage == 0 else ["north", "west"][stage - 1])
        filled.rows.append(
            {
                site: {
                    f"{mask}.{metric}.{region}": (0.1 * stage + 0.01 * place) * (1000 if metric == "hd95" else 1)
                    for mask in ("coarse", "refined")
                    for metric in ("dice", "hd95")
                    for region in ("tc", "wt", "et")
                }
                for place, site in enumerate(filled.sites, 1)
            }
        )
    filled.bytes_out = {"north": {"arrays": 1_234_567, "metrics": 10}, "west": {"arrays": 5}}
    filled.seconds = {"stage 1": 12.34}
    return filled


def printed(values: Results) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the process
    print_results(console, values.to_dict(), "phantom")
    return console.export_text()


def test_tables_say_which_data_seed_and_cases_and_show_the_results_figures() -> None:
    text = printed(results(3))
    for expected in ("ser-diff, seed 3, phantom data, 2 + 2 test cases", "21.0", "22.0", "210.0", "1,234,577", "12.3"):
        assert expected in text
    assert "nan" not in text.lower()


def test_scores_that_were_asked_for_have_a_table_of_their_own() -> None:
    values = results(3)
    assert "NSD" not in printed(values)
    values.metrics = ["dice", "hd95", "nsd", "lesion_dice"]
    for row in values.rows:
        for place, site in enumerate(row):
            row[site] = dict(row[site]) | {
                f"{mask}.{metric}.{region}": 0.5 + 0.1 * place + (0.033 if metric == "nsd" else 0)
                for mask in ("coarse", "refined")
                for metric in ("nsd", "lesion_dice")
                for region in ("tc", "wt", "et")
            }
    table = printed(values).partition("Other final metrics")[2].partition("R: mean Dice")[0]
    assert "NSD at 1 mm" in table
    assert re.search(r"north\W+53\.3\W+50\.0\W+west\W+63\.3\W+60\.0", table)


def test_what_a_student_forgot_is_said_again_at_the_end_of_a_run() -> None:
    values = results(3)
    row = {"stage": 2, "at": "west", "site": "north", "region": "et", "before": 0.628, "after": 0.0}
    values.retention = [{**row, "alarm": True}, {**row, "region": "wt", "after": 0.62, "alarm": False}]
    told = " ".join(printed(values).partition("Alarm: ")[2].split())
    assert told.startswith("stage 2 at west may have made the student forget north's patients")
    assert "painted lesions ET 63 → 0. Deploy student-of-stage-1.pt" in told
    values.retention = values.retention[1:]
    assert "Alarm" not in printed(values)


def test_what_sites_did_not_hand_over_is_said_again_at_the_end_of_a_run() -> None:
    values = results(3)
    assert "Note:" not in printed(values)
    values.notes = ["[west] shares no moments of its lesions"]
    assert "Note: [west] shares no moments of its lesions" in printed(values)


def test_tables_of_a_run_that_was_scored_on_validation_patients_say_so_and_count_them() -> None:
    values = results(3)
    values.scored = "validation"
    values.cases = {"north": {"training": 8, "validation": 3, "test": 2}, "west": {"training": 8, "validation": 4}}
    text = printed(values)
    assert "phantom data, 3 + 4 validation cases" in text
    assert "test cases" not in text
    assert (values.to_dict()["scored"], results(3).to_dict()["scored"]) == ("validation", "test")


def test_all_that_left_but_weights_is_shown_as_a_share_of_the_sites_own_scans_where_they_are_known() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    values = results(3).to_dict()
    values["bytes_out"] = {
        "north": {"arrays": 900_000, "error-maps": 4_000, "metrics": 900, "raw-scans": 100},
        "west": {"arrays": 900_000},
    }
    print_results(console, values, "phantom")
    assert "% of raw scans" not in console.export_text()
    print_results(console, values | {"raw_nifti_bytes": {"north": 1_000_000, "west": 2_000_000}}, "phantom")
    table = console.export_text().partition("Bytes that left each hospital")[2]
    assert "% of raw scans" in table
    shown = {cells[1]: cells[-2] for cells in (line.split() for line in table.splitlines()) if len(cells) > 3}
    assert (shown["north"], shown["west"]) == ("0.50", "0.00")


def test_a_site_is_shown_with_the_student_that_it_uses() -> None:
    for deployed, dice in (([2, 2], ("21.0", "22.0")), ([1, 2], ("11.0", "22.0"))):
        table = printed(results(3, deployed)).partition("R: mean Dice")[0].splitlines()
        for site, value in zip(("north", "west"), dice, strict=True):
            lines = [line for line in table if line.lstrip("│ ").startswith(site)]
            assert [line.count(f" {value} ") for line in lines] == [4, 4], "of both masks, each region and their mean"


def test_of_a_run_that_was_scored_in_part_tables_leave_cells_blank_and_say_what_was_measured() -> None:
    values = results(3)
    values.evaluation = EvaluationPlan(2, ("west",), (0, 2), (("west",), ("north",), ("west",)))
    del values.rows[0]["north"], values.rows[1]["west"], values.rows[2]["north"]
    text = printed(values)
    at_end, _, rest = text.partition("R: mean Dice")
    assert "north" not in at_end
    assert "phantom data, 2 test cases" in at_end
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in rest.splitlines() if line.startswith("│ ")]
    assert cells[:3] == [["0 untrained", "2.0"], ["1 north", ""], ["2 west", "22.0"]]
    assert "measured in part: after stages 0, 2 on west;" in rest
    assert "measured in part" not in printed(results(3))


def test_tables_of_a_long_stream_fit_a_terminal() -> None:
    names = [f"site-{number}" for number in range(1, 31)]
    scores = results(1).rows[0]["north"]
    long = Results("ser-diff", 0, names, [30] * 30, {name: {"training": 8, "test": 2} for name in names})
    long.stages = ["untrained", *names]
    long.rows = [dict.fromkeys(names, scores) for _ in range(31)]
    long.seconds = {"discovery": 2.0, **{f"stage {number}": 1.5 for number in range(1, 31)}, "evaluation 30": 4.0}
    text = printed(long)
    assert "R has 30 columns, too many to show here; see results.csv" in text
    assert "Seconds: discovery 2.0 · stage 45.0 · evaluation 4.0" in text
    sample = ("site-7", "site-21")
    long.evaluation = EvaluationPlan(10, sample, (0, 10, 20, 30), (tuple(names),) * 31)
    header = next(line for line in printed(long).splitlines() if "after stage" in line)
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["after stage", "site-7", "site-21"]


def told_of(overlap: dict[str, Any] | None) -> str:
    """What tables say of a run with this ``overlap``, and, between ⟪ and ⟫, what of it is red."""
    console = Console(width=150, record=True, file=io.StringIO())
    values = results(3).to_dict() | ({} if overlap is None else {"overlap": overlap})
    print_results(console, values, "phantom")
    return console.export_text(styles=True).replace("\x1b[1;31m", "⟪").replace("\x1b[0m", "⟫")


def test_leaking_run_is_stamped_in_red_above_and_below_its_tables() -> None:
    text = told_of({"leaks": True, "left_out": {}, "kept": {"north": 1, "west[x]": 2}})
    warning = "Leaking: 3 cases (1 of north, 2 of west[x]) are of patients who are in the federation already"
    lines = text.strip().splitlines()
    assert lines[0] == lines[-1] == f"⟪{warning}, so scores are too good⟫"
    assert "Left out" not in text


def test_deployment_that_allowed_overlap_is_stamped_though_nobody_counted() -> None:
    text = told_of({"leaks": True, "left_out": {}, "kept": {}, "cases": []})
    warning = "Leaking: no search for patients who are at several sites was made, so scores may be too good"
    assert text.strip().splitlines()[0] == f"⟪{warning}⟫"


def test_tables_count_what_was_left_out_by_site_without_need_of_names() -> None:
    text = told_of({"leaks": False, "left_out": {"west": 1}, "kept": {}})
    assert text.strip().splitlines()[-1] == "Left out: 1 case (1 of west) of patients who are in the federation already"
    assert "Leaking" not in text


def test_tables_name_twenty_skipped_cases_and_say_that_scores_are_of_fewer_patients() -> None:
    roles = {n: "test" if n < 2 else "validation" if n < 5 else "training" for n in range(23)}
    skipped = [{"site": "west", "case": f"C{n}", "role": roles[n], "faults": [f"/C{n}: gone"]} for n in roles]
    console = Console(width=150, record=True, file=io.StringIO())
    print_results(console, results(3).to_dict() | {"skipped": skipped}, "ours.toml")
    console_text = console.export_text()
    *_, last_case, total = console_text.strip().splitlines()
    assert last_case == "Skipped west: C19: /C19: gone"
    assert console_text.count(", a test case: ") == 2
    assert console_text.count(", a validation case: ") == 3
    held_out = "3 of them to be validated on and 2 of them to be tested on"
    lost = f"23 cases that cannot be used, {held_out}, so scores are of fewer patients"
    assert total == f"Skipped: {lost}"


def test_tables_say_nothing_of_overlap_where_there_is_none_or_none_is_known() -> None:
    clean = told_of({"leaks": False, "left_out": {}, "kept": {}, "cases": []})
    assert clean == told_of(None)
    assert "already" not in clean


def test_leaking_comparison_and_study_are_stamped_in_red() -> None:
    def printed_red(leak: str | None) -> list[int]:
        console = Console(width=150, record=True, file=io.StringIO())
        comparison, study = make_comparison(), make_study() | {"leak": leak}
        comparison["data"]["leak"] = leak
        print_comparison(console, comparison)
        stamps = [console.export_text(styles=True).count("\x1b[1;31mLeaking [all]\x1b[0m")]
        print_study(console, study)
        return [*stamps, console.export_text(styles=True).count("\x1b[1;31mLeaking [all]\x1b[0m")]

    assert printed_red("Leaking [all]") == [2, 1]
    assert printed_red(None) == [0, 0]


def test_scores_that_a_stream_does_not_have_are_shown_as_such() -> None:
    text = printed(results(2))
    assert "–" in text
    assert "None" not in text


def test_the_table_of_values_has_one_row_per_score() -> None:
    rows = results(3).table()
    assert len(rows) == 3 * 2 * 2 * 2 * 3
    assert rows[0]["value"] == 0.01


def colours_of(picture: Path) -> int:
    """How many pixels are coloured."""
    seen = matplotlib.image.imread(picture)[..., :3]
    return int(((seen.max(-1) - seen.min(-1)) > 0.3).sum())


def test_the_picture_shows_masks_in_colour_and_sites_without_teacher(tmp_path: Path) -> None:
    file = tmp_path / "examples.png"
    plot_examples([example("north"), example("west", taught=False)], "title", file)
    picture = matplotlib.image.imread(file)
    assert picture.shape[0] > 400
    assert 0.005 < colours_of(file) / picture[..., 0].size < 0.6
    plot_examples([example("north", taught=False), example("west", taught=False)], "title", file)
    assert colours_of(file) > 0


def test_the_picture_shows_the_slice_in_which_most_is_true(tmp_path: Path) -> None:
    def coloured(at: int) -> int:
        refined = np.zeros((8, *GRID), bool)
        refined[..., at] = True
        plot_methods({"a": [example(refined=refined)]}, "title", tmp_path / "cases.png")
        return colours_of(tmp_path / "cases.png")

    most = int(example().truth.any(0).sum((0, 1)).argmax())
    assert coloured(most) > coloured(most + 1) == coloured(0)


def test_methods_stand_side_by_side_with_intervals_costs_and_the_answer() -> None:
    comparison = make_comparison()
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(console, comparison)
    text = console.export_text()
    for method in comparison["methods"]:
        dice = method["scores"]["dice"]
        assert f"{100 * dice['value']:.1f}" in text
        assert f"{100 * dice['low']:.0f} … {100 * dice['high']:.0f}" in text, (
            "eighty columns hold an interval on a line"
        )
        assert f"{method['bytes_out'].get('arrays', 0) / 1e6:.2f}" in text or "arrays" not in method["bytes_out"]
    assert text.count("(breaks privacy)") == 3 * len(BREAKING)
    assert max(map(len, text.splitlines())) <= 80
    assert "phantom data of the stream patients, 3 sites, 15 test cases for each seed" in " ".join(text.split())
    assert comparison["answer"][0] in " ".join(text.split())
    assert "nan" not in text.lower()


def test_a_comparison_names_each_method_s_worst_hospital_with_the_spread_and_dice_by_region() -> None:
    comparison = make_comparison(methods=("ewc", "local"))
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(console, comparison)
    table = console.export_text().partition("Fairness")[2].partition("Costs")[0]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    assert len(rows) == 4, "values, and below them their intervals"
    for method, values, ends in zip(comparison["methods"], rows[::2], rows[1::2], strict=True):
        fairness, by_region = method["fairness"], method["dice_by_region"]
        scores = [fairness["worst"], fairness["spread"], *(by_region[region] for region in ("tc", "wt", "et"))]
        figures = [f"{100 * score['value']:.1f}" for score in scores]
        assert values == [method["name"], fairness["worst_site"], *figures]
        assert ends[2:] == [f"{100 * score['low']:.0f} … {100 * score['high']:.0f}" for score in scores]


def test_a_run_names_its_worst_hospital_unless_it_has_one_alone() -> None:
    worst = "Worst hospital: north, 21.0 % mean Dice; spread over hospitals 0.5 points (population standard deviation)"
    assert worst in printed(results(3))
    alone = results(3)
    alone.evaluation = EvaluationPlan(2, ("west",), (0, 2), (("west",), ("north",), ("west",)))
    del alone.rows[0]["north"], alone.rows[1]["west"], alone.rows[2]["north"]
    assert "Worst hospital" not in printed(alone)


def test_methods_that_were_compared_on_validation_patients_are_said_to_be() -> None:
    comparison = make_comparison()
    for number, cases in enumerate(comparison["data"]["cases"].values()):
        cases["validation"] = 7 + number
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(console, {**comparison, "scored": "validation"})
    text = " ".join(console.export_text().split())
    assert "patients, 3 sites, 24 validation cases for each seed" in text
    assert "test cases" not in text


def test_a_study_is_printed_with_all_its_cells_and_sentences() -> None:
    study = make_study("bars")
    console = Console(width=160, record=True, file=io.StringIO())
    print_study(console, study)
    text = " ".join(console.export_text().split())
    for row in study["rows"]:
        for value in row:
            assert ("–" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)) in text
    assert all(sentence in text for sentence in study["sentences"])


def test_the_picture_of_methods_shows_every_methods_mask(tmp_path: Path) -> None:
    nothing, something = (example(refined=masks) for masks in (np.zeros((8, *GRID), bool), example().truth))

    def coloured(methods: dict[str, list[Example]]) -> int:
        plot_methods(methods, "title", tmp_path / "cases.png")
        return colours_of(tmp_path / "cases.png")

    none = coloured({"a": [nothing], "b": [nothing]})
    one = coloured({"a": [something], "b": [nothing]})
    both = coloured({"a": [something], "b": [something]})
    assert none < one < both
    assert both - one == pytest.approx(one - none, rel=0.05)
