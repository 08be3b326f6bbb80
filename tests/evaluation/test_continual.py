import numpy as np
import pytest

from fedserdiff.evaluation.continual import ContinualScores, continual_scores

# Row 0 is the untrained student. Worked by hand below.
R = [
    [0.10, 0.20, 0.00],
    [0.80, 0.30, 0.10],
    [0.60, 0.70, 0.20],
    [0.65, 0.40, 0.90],
]


def test_a_hand_worked_matrix() -> None:
    scores = continual_scores(R)
    assert scores.bwt == pytest.approx(((0.65 - 0.80) + (0.40 - 0.70)) / 2)
    assert scores.fwt == pytest.approx(((0.30 - 0.20) + (0.20 - 0.00)) / 2)
    assert scores.forgetting == pytest.approx(((0.80 - 0.65) + (0.70 - 0.40)) / 2)
    assert scores.forgetting_rate == pytest.approx((0.15 / 0.80 + 0.30 / 0.70) / 2)


def test_forgetting_is_from_the_best_score_ever_held_not_from_the_first() -> None:
    r = [[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.6, 0.8, 0.7]]
    scores = continual_scores(r)
    assert scores.bwt == pytest.approx((0.1 + 0.0) / 2)
    assert scores.forgetting == pytest.approx((0.3 + 0.0) / 2)


def test_distances_flip_the_sign_so_that_worse_is_negative_bwt_and_positive_forgetting() -> None:
    mm = [[300.0, 300.0], [10.0, 100.0], [40.0, 5.0]]
    scores = continual_scores(mm, higher_is_better=False)
    assert scores.bwt == pytest.approx(-30.0)
    assert scores.fwt == pytest.approx(200.0)
    assert scores.forgetting == pytest.approx(30.0)
    assert scores.forgetting_rate == pytest.approx(3.0)


def test_a_site_that_was_never_learnt_has_a_rate_all_the_same() -> None:
    assert continual_scores([[0.0, 0.0], [0.0, 0.0], [0.0, 0.5]]).forgetting_rate == 0
    assert continual_scores([[0.2, 0.0], [0.0, 0.0], [0.0, 0.5]]).forgetting_rate == 1


@pytest.mark.parametrize("r", [[[0.1], [0.8]], [[0.1, 0.1, 0.1], [0.8, 0.8, 0.8]]])
def test_a_single_site_or_a_single_pooled_stage_has_no_order_to_score(r: list[list[float]]) -> None:
    assert continual_scores(r) == ContinualScores(None, None, None, None)


def test_no_score_is_ever_nan() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sites = int(rng.integers(2, 6))
        values = continual_scores(rng.choice([0.0, 0.5, 1.0], (sites + 1, sites))).to_dict().values()
        assert all(v is not None and np.isfinite(v) for v in values)


# Site 2 was not scored at the end, site 3 not untrained, and site 1 not when it was best. Worked by hand below.
x = float("nan")
IN_PART = [
    [0.10, 0.20, x, 0.05],
    [0.80, 0.30, x, x],
    [x, 0.70, 0.20, x],
    [0.60, x, 0.90, 0.15],
    [0.65, x, 0.50, 0.75],
]


def test_where_r_was_measured_in_part_a_score_is_over_the_sites_that_have_all_it_needs() -> None:
    scores = continual_scores(IN_PART)
    assert scores.bwt == pytest.approx(((0.65 - 0.80) + (0.50 - 0.90)) / 2)
    assert scores.fwt == pytest.approx(((0.30 - 0.20) + (0.15 - 0.05)) / 2)
    assert scores.forgetting == pytest.approx(((0.80 - 0.65) + (0.90 - 0.50)) / 2)
    assert scores.forgetting_rate == pytest.approx((0.15 / 0.80 + 0.40 / 0.90) / 2)


def test_a_site_whose_score_at_its_own_stage_is_unknown_is_in_no_score_of_forgetting() -> None:
    r = [[0.1, 0.2, 0.3], [x, 0.4, 0.4], [0.9, 0.6, 0.5], [0.0, 0.5, 0.8]]
    scores = continual_scores(r)
    assert scores.bwt == pytest.approx(0.5 - 0.6)
    assert scores.forgetting == pytest.approx(0.6 - 0.5)
    assert scores.forgetting_rate == pytest.approx(0.1 / 0.6)


def test_scores_that_no_site_has_are_none() -> None:
    r = [[0.1, 0.2, 0.3], [0.5, x, x], [x, 0.6, x], [x, x, 0.8]]
    assert continual_scores(r) == ContinualScores(None, None, None, None)


def test_of_a_matrix_with_holes_every_score_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        sites = int(rng.integers(2, 7))
        r = np.where(rng.random((sites + 1, sites)) < 0.6, rng.random((sites + 1, sites)), np.nan)
        known = [[bool(r[i, j] == r[i, j]) for j in range(sites)] for i in range(sites + 1)]
        kept = [j for j in range(sites - 1) if known[sites][j] and known[j + 1][j]]
        lost = [max(r[i, j] for i in range(sites) if known[i][j]) - r[sites, j] for j in kept]
        gained = [r[j, j] - r[0, j] for j in range(1, sites) if known[j][j] and known[0][j]]
        scores = continual_scores(r)
        assert scores.bwt == (pytest.approx(np.mean([r[sites, j] - r[j + 1, j] for j in kept])) if kept else None)
        assert scores.forgetting == (pytest.approx(np.mean(lost)) if kept else None)
        assert scores.fwt == (pytest.approx(np.mean(gained)) if gained else None)


# Two sites arrive in stage 1, one in stage 2; site 1 has left by stage 2 and is back in stage 3. Worked by hand below.
IN_GROUPS = [
    [0.10, 0.20, 0.05],
    [0.80, 0.60, 0.15],
    [x, 0.50, 0.70],
    [0.75, 0.65, 0.40],
]


def test_sites_that_arrive_in_groups_are_compared_with_their_own_arrival() -> None:
    scores = continual_scores(IN_GROUPS, arrivals=[1, 1, 2])
    assert scores.bwt == pytest.approx(((0.75 - 0.80) + (0.65 - 0.60) + (0.40 - 0.70)) / 3)
    assert scores.fwt == pytest.approx(0.15 - 0.05)
    assert scores.forgetting == pytest.approx(((0.80 - 0.75) + (0.60 - 0.65) + (0.70 - 0.40)) / 3)
    assert scores.forgetting_rate == pytest.approx((0.05 / 0.80 - 0.05 / 0.60 + 0.30 / 0.70) / 3)


def test_a_site_that_left_for_good_gives_no_backward_transfer() -> None:
    left = [*IN_GROUPS[:3], [x, 0.65, 0.40]]
    assert continual_scores(left, arrivals=[1, 1, 2]).bwt == pytest.approx(((0.65 - 0.60) + (0.40 - 0.70)) / 2)


def test_sites_that_arrive_all_at_once_have_no_order_to_score() -> None:
    assert continual_scores([[0.1, 0.1], [0.8, 0.8]], arrivals=[1, 1]) == ContinualScores(None, None, None, None)
