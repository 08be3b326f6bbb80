import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from fedserdiff.privacy.scores import auc, tpr_at


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_auc_is_the_share_of_pairs_of_items_in_the_right_order() -> None:
    draws = np.random.default_rng(0)
    members, others = ([draws.integers(0, 8, size=n).astype(float) for n in sizes] for sizes in ((3, 1, 5), (2, 4)))
    one, two = np.concatenate(members), np.concatenate(others)
    assert auc(members, others, rng()).value == pytest.approx(mannwhitneyu(one, two).statistic / len(one) / len(two))


def test_the_interval_is_over_patients_not_over_their_items() -> None:
    """Many items of a patient that say the same are no more evidence than one."""
    draws = np.random.default_rng(0)
    groups = [draws.normal(size=(12, 1)) for _ in range(2)]
    few, many = (auc(*[list(np.repeat(group, times, axis=1)) for group in groups], rng()) for times in (1, 50))
    assert few.low is not None
    assert few.high is not None
    assert (few.low, few.value, few.high) == pytest.approx((many.low, many.value, many.high))
    assert 0.2 < few.high - few.low < 0.6


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = auc(*[list(draws.normal(size=(20, 1))) for _ in range(2)], draws)
        hits += found.low is not None and found.high is not None and found.low <= 0.5 <= found.high
    assert hits >= 88


def test_tpr_counts_members_above_all_but_the_allowed_share_of_others() -> None:
    others, members = [np.arange(100.0)], [np.array([97.5, 98.5, 99.5, 50.0])]
    for fpr, share in ((0.01, 0.5), (0.02, 0.75)):  # at 1 % 99 alone may pass: 98.5 and 99.5 are above the rest
        found = tpr_at(fpr, members, others, rng())
        assert found is not None
        assert found.value == share


def test_a_tie_with_an_other_is_no_find() -> None:
    found = tpr_at(0.01, [np.zeros(10)], [np.zeros(100)], rng())
    assert found is not None
    assert found.value == 0


@pytest.mark.parametrize(("fpr", "others", "can"), [(0.01, 100, True), (0.01, 99, False), (0.001, 999, False)])
def test_a_low_rate_needs_enough_others(fpr: float, others: int, can: bool) -> None:
    assert (tpr_at(fpr, [np.zeros(1)], [np.zeros(others)], rng()) is not None) == can


def test_one_patient_has_no_interval() -> None:
    interval = auc([np.ones(5)], [np.zeros(5), np.zeros(5)], rng())
    assert (interval.value, interval.low, interval.high) == (1.0, None, None)
