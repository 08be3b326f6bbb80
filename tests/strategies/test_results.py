import json

import numpy as np
import pytest

from strategies.evaluation_plan import EvaluationPlan
from strategies.results import Results

SITES = ["north", "east", "west"]
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.3, 0.4], [0.5, 0.8, 0.45], [0.4, 0.6, 0.7]])


def results(deployed: list[int]) -> Results:
    """Three sites whose Dice is `R` in every region and mask."""
    filled = Results("any", 0, SITES, deployed, {site: {"training": 4, "test": 1} for site in SITES})
    filled.stages = ["untrained", *SITES]
    for row in R:
        names = [f"{m}.{k}.{r}" for m in ("coarse", "refined") for k in ("dice", "hd95") for r in ("tc", "wt", "et")]
        filled.rows.append({site: dict.fromkeys(names, float(value)) for site, value in zip(SITES, row, strict=True)})
    return filled


def test_sites_that_share_a_student_have_the_streams_scores() -> None:
    values = results([3, 3, 3]).to_dict()
    assert values["deployed"] == [3, 3, 3]
    assert values["bwt"]["dice"]["wt"] == pytest.approx(np.mean([0.4 - 0.9, 0.6 - 0.8]))
    assert values["forgetting"]["dice"]["mean"] == pytest.approx(np.mean([0.9 - 0.4, 0.8 - 0.6]))


def test_sites_with_students_of_their_own_have_none_but_keep_the_matrix() -> None:
    values = results([1, 2, 3]).to_dict()
    assert values["deployed"] == [1, 2, 3]
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert {value for by_key in values[name].values() for value in by_key.values()} == {None}
    assert np.allclose(values["R"]["dice"]["mean"], R)


def test_the_worst_site_is_that_of_the_students_in_use_by_region_and_of_their_mean() -> None:
    values = results([3, 3, 3]).to_dict()["fairness"]
    assert list(values) == ["dice"]
    assert list(values["dice"]) == ["mean", "tc", "wt", "et"]
    for found in values["dice"].values():
        assert found == pytest.approx({"worst_site": "north", "worst": 0.4, "spread": np.sqrt(0.14 / 9)})
    own = results([1, 2, 3]).to_dict()["fairness"]["dice"]["mean"]
    assert own == pytest.approx({"worst_site": "west", "worst": 0.7, "spread": np.std([0.9, 0.8, 0.7])})


def test_a_region_may_have_another_worst_site_than_the_mean() -> None:
    filled = results([3, 3, 3])
    filled.rows[3]["west"] = {**filled.rows[3]["west"], "refined.dice.et": 0.1}
    values = filled.to_dict()["fairness"]["dice"]
    assert (values["et"]["worst_site"], values["et"]["worst"]) == ("west", 0.1)
    assert values["mean"]["worst_site"] == "north", "0.4, and west at (0.7 + 0.7 + 0.1) / 3 = 0.5"


def test_before_the_students_in_use_are_scored_no_site_is_the_worst() -> None:
    filled = results([3, 3, 3])
    filled.rows, last = filled.rows[:3], filled.rows[3]
    nothing = {"worst_site": None, "worst": None, "spread": None}
    assert filled.to_dict()["fairness"]["dice"]["mean"] == nothing
    filled.rows.append({"west": last["west"]})
    found = filled.to_dict()["fairness"]["dice"]["mean"]
    assert found == pytest.approx({"worst_site": "west", "worst": 0.7, "spread": 0.0})
    json.dumps(filled.to_dict(), allow_nan=False)


def test_a_row_that_a_site_has_not_scored_yet_has_holes_and_the_stream_no_scores() -> None:
    whole = results([3, 3, 3])
    late = whole.rows[1].pop("west")
    values = whole.to_dict()
    for matrix in (values["R"]["dice"]["mean"], values["R_coarse"]["hd95"]["tc"]):
        assert matrix[1] == pytest.approx([0.9, 0.3, None])
        assert [matrix[k] for k in (0, 2, 3)] == pytest.approx(R[[0, 2, 3]])
    json.dumps(values, allow_nan=False)  # as the run directory writes it
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert {value for by_key in values[name].values() for value in by_key.values()} == {None}
    assert ("west", 1) not in {(line["site"], line["stage"]) for line in whole.table()}

    whole.rows[1]["west"] = late
    assert whole.to_dict() == results([3, 3, 3]).to_dict()
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert isinstance(whole.to_dict()[name]["dice"]["mean"], float)


PLANNED = EvaluationPlan(
    every=2,
    sites=("north", "west"),
    whole=(0, 2, 3),
    rows=(("north", "west"), ("north",), ("north", "east", "west"), ("north", "west")),
)


def in_part() -> Results:
    """The same, scored as `PLANNED`."""
    filled = results([3, 3, 3])
    filled.evaluation = PLANNED
    filled.rows = [{site: row[site] for site in wanted} for row, wanted in zip(filled.rows, PLANNED.rows, strict=True)]
    return filled


def test_results_of_a_run_that_was_scored_in_part_say_what_was_measured() -> None:
    values = in_part().to_dict()
    assert values["evaluation"] == {"every": 2, "sites": ["north", "west"], "rows": [0, 2, 3]}
    measured = [[0.1, None, 0.3], [0.9, None, None], [0.5, 0.8, 0.45], [0.4, None, 0.7]]
    for matrix in (values["R"]["dice"]["mean"], values["R_coarse"]["hd95"]["tc"]):
        assert [value is None for row in matrix for value in row] == [v is None for row in measured for v in row]
        assert [v for row in matrix for v in row if v] == pytest.approx([v for row in measured for v in row if v])
    assert {(line["stage"], line["site"]) for line in in_part().table()} == {
        (row, site) for row, sites in enumerate(PLANNED.rows) for site in sites
    }
    json.dumps(values, allow_nan=False)


def test_its_scores_are_over_the_sites_that_have_what_they_need() -> None:
    values = in_part().to_dict()
    assert values["bwt"]["dice"]["wt"] == pytest.approx(0.4 - 0.9), "north's: east was not scored at the end"
    assert values["fwt"]["dice"]["mean"] == pytest.approx(0.45 - 0.3), "west's: east was not scored untrained"
    assert values["forgetting"]["dice"]["mean"] == pytest.approx(0.9 - 0.4)
    assert values["forgetting_rate"]["dice"]["mean"] == pytest.approx(0.5 / 0.9)


def test_it_has_none_while_a_score_is_still_to_come() -> None:
    late = in_part()
    del late.rows[2]["west"]
    assert late.missing(2) == ["west"]
    assert [late.missing(row) for row in (0, 1, 3)] == [[], [], []]
    assert late.to_dict()["bwt"]["dice"]["mean"] is None


def test_a_matrix_is_the_mean_of_each_entrys_regions_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    drawn = results([3, 3, 3])
    drawn.rows = [{site: {n: float(rng.random()) for n in row[site]} for site in row} for row in drawn.rows]
    for number, row in enumerate(drawn.rows):
        for column, site in enumerate(SITES):
            scores = [row[site][f"refined.dice.{region}"] for region in ("tc", "wt", "et")]
            assert drawn.matrix("refined", "dice", "mean")[number, column] == np.mean(scores)
            assert drawn.matrix("refined", "dice", "wt")[number, column] == scores[1]


def test_a_score_that_was_asked_for_has_a_matrix_and_a_streams_scores_as_dice_has() -> None:
    more = results([3, 3, 3])
    more.metrics = ["dice", "hd95", "nsd"]
    more.rows = [
        {site: row[site] | {n.replace("dice", "nsd"): v for n, v in row[site].items() if "dice" in n} for site in row}
        for row in more.rows
    ]
    values, plain = more.to_dict(), results([3, 3, 3]).to_dict()
    for name in ("R", "R_coarse", "bwt", "fwt", "forgetting", "forgetting_rate"):
        assert values[name].pop("nsd") == values[name]["dice"]
    assert values == plain, "and nothing else is other than it was"
    assert sum(line["metric"] == "nsd" for line in more.table()) == len(more.table()) / 3
