"""A stream in which hospitals arrive in a group, and one leaves and returns."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Simulate

from fedserdiff.comparison.records import load_run
from fedserdiff.experiments.loopback import _largest_difference
from sites.ledger import read_ledger

MOVES = """
[[stage]]
name = "March"
arrive = ["site-1", "site-2"]
[[stage]]
name = "May"
arrive = ["site-3"]
leave = ["site-1"]
[[stage]]
return = ["site-1"]
"""


@pytest.fixture(scope="module")
def run(simulate: Simulate, workplace: Path) -> Path:
    (workplace / "moves.toml").write_text(MOVES)
    done = simulate("moves.toml", "--sites", "3", "--method", "ser-diff", "--out", "moved")
    assert done.returncode == 0, done.stderr
    assert "site-1 leaves as stage 2 begins" in done.stdout
    return workplace / "moved"


def test_nobody_asks_a_hospital_that_left_until_it_returns(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    rows = results["R"]["dice"]["mean"]
    assert [[value is None for value in row] for row in rows] == [
        [False] * 3,
        [False] * 3,
        [True, False, False],
        [False] * 3,
    ]
    assert results["stages"] == ["untrained", "March", "May", "site-1 again"]
    assert (results["arrivals"], results["deployed"]) == ([1, 1, 2], [3, 3, 3])
    assert results["departures"] == [{"site": "site-1", "stage": 2, "trained": [1], "returns": 3}]
    entries = read_ledger(run / "hospitals" / "site-1" / "ledger.jsonl")
    trained = {(entry.stage, entry.server_round) for entry in entries if entry.message == "train"}
    assert trained == {(stage, one) for stage in (1, 3) for one in (1, 2)}


def test_its_error_maps_are_not_sent_to_those_who_come_later(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    of_two_rounds = 2 * results["bytes_out"]["site-2"]["error-maps"]
    assert results["bytes_in"]["site-3"]["error-maps"] == of_two_rounds
    assert results["bytes_in"]["site-1"]["error-maps"] == of_two_rounds  # in the stage of its return


def test_a_comparison_reads_a_run_with_holes_in_r(run: Path) -> None:
    record = load_run(run)
    values = record.scores["dice"].values
    assert np.isnan(values["site-1"][2]).all()
    assert np.isfinite(values["site-1"][[0, 1, 3]]).all()
    assert np.isfinite(record.final("dice")).all()


def test_a_rehearsal_sees_a_score_that_one_side_alone_has(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    other = json.loads((run / "results.json").read_text())
    assert _largest_difference(results, other) == 0
    other["R"]["dice"]["wt"][2][0] = 0.0  # where site-1 is away
    assert _largest_difference(results, other) >= 1
