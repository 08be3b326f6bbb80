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
