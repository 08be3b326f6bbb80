"""Which hospitals score the student of which stage."""

from typing import Any

import pytest

from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from strategies.evaluation_plan import EvaluationPlan, evaluated_sites, plan_evaluation
from strategies.stream import make_stream

NAMES = [f"site-{number}" for number in range(1, 8)]


def smoke(**changes: Any) -> Settings:
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in NAMES)
    return make_settings("smoke", {"method": "fine-tune", "sites": sites, **changes})


def plan(**changes: Any) -> EvaluationPlan:
    config = smoke(**changes)
    return plan_evaluation(config, make_stream(config).stages(NAMES))


def numbers(planned: EvaluationPlan) -> list[list[int]]:
    return [[NAMES.index(site) + 1 for site in row] for row in planned.rows]


@pytest.mark.parametrize(
    "changes",
    [{}, {"training.participation": "cumulative"}, {"scoring.evaluate_sites": 7}, {"scoring.evaluate_sites": 9}],
)
def test_unless_asked_otherwise_every_site_scores_every_student(changes: dict[str, Any]) -> None:
    assert numbers(plan(**changes)) == [[*range(1, 8)]] * 8
    assert plan(**changes).sites == tuple(NAMES)


@pytest.mark.parametrize("participation", ["arriving", "cumulative"])
def test_between_whole_rows_the_site_that_has_arrived_and_the_next_score(participation: str) -> None:
    everyone = [*range(1, 8)]
    planned = plan(**{"scoring.evaluate_every": 3, "training.participation": participation})
    assert numbers(planned) == [everyone, [1, 2], [2, 3], everyone, [4, 5], [5, 6], everyone, everyone]
    assert planned.whole == (0, 3, 6, 7)


def test_a_sample_scores_whole_rows_and_others_only_where_a_score_comes_of_it() -> None:
    planned = plan(**{"scoring.evaluate_every": 3, "scoring.evaluate_sites": 3})
    sample = {NAMES.index(site) + 1 for site in planned.sites}
    assert len(sample) == 3
    for row, scored in enumerate(numbers(planned)):
        own = {row} if row else set()
        following = {row + 1} & sample
        assert set(scored) == own | (sample if row in (0, 3, 6, 7) else following), row
        assert scored == sorted(scored)


def test_the_sample_is_the_seeds() -> None:
    drawn = [evaluated_sites(smoke(seed=seed, **{"scoring.evaluate_sites": 3})) for seed in range(20)]
    assert drawn == [
        evaluated_sites(smoke(seed=seed, method="local", **{"scoring.evaluate_sites": 3})) for seed in range(20)
    ]
    assert len(set(drawn)) > 10
    assert {site for sample in drawn for site in sample} == set(NAMES)
    assert all(list(sample) == sorted(sample) for sample in drawn)


def test_poolings_one_stage_is_the_last_and_no_sites_own() -> None:
    planned = plan(method="pooled", **{"scoring.evaluate_every": 5, "scoring.evaluate_sites": 2})
    assert planned.rows == (planned.sites, planned.sites)
    assert len(planned.sites) == 2


def test_a_site_with_a_student_of_its_own_always_scores_that_one() -> None:
    config = smoke(method="local", **{"scoring.evaluate_every": 4, "scoring.evaluate_sites": 1})
    deployed = make_stream(config).deployed(NAMES)
    rows = plan(method="local", **{"scoring.evaluate_every": 4, "scoring.evaluate_sites": 1}).rows
    assert all(site in rows[row] for site, row in zip(NAMES, deployed, strict=True))


def test_a_run_of_fewer_stages_than_evaluate_every_ends_with_a_whole_row() -> None:
    everyone = [*range(1, 8)]
    assert numbers(plan(**{"scoring.evaluate_every": 100}))[::7] == [everyone, everyone]
    assert plan(**{"scoring.evaluate_every": 100}).whole == (0, 7)


def test_a_site_that_left_scores_nothing_until_it_returns() -> None:
    moves = [
        {"arrive": NAMES[:3]},
        {"arrive": NAMES[3:6], "leave": NAMES[:1]},
        {"arrive": NAMES[6:]},
        {"return": NAMES[:1], "leave": NAMES[1:2]},
    ]
    planned = plan(stages=moves)
    assert numbers(planned) == [[*range(1, 8)], [*range(1, 8)], [*range(2, 8)], [*range(2, 8)], [1, *range(3, 8)]]
    in_part = plan(stages=moves, **{"scoring.evaluate_every": 9})
    assert numbers(in_part) == [[*range(1, 8)], [*range(1, 7)], [4, 5, 6, 7], [7], [1, *range(3, 8)]]
