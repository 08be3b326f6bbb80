import numpy as np
import pytest

from fedserdiff.privacy.scores import auc, estimable, over_patients, tpr_at


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    members, others = np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0])
    pairs = [(m > o) + 0.5 * (m == o) for m in members for o in others]
    assert auc(members, others) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(others, members) == pytest.approx(1 - auc(members, others))


def test_tpr_counts_members_above_all_but_the_allowed_share_of_others() -> None:
    others = np.arange(100.0)
    members = np.array([97.5, 98.5, 99.5, 50.0])
    assert tpr_at(0.01)(members, others) == 0.5  # 99 alone may pass: 98.5 and 99.5 are above the rest
    assert tpr_at(0.0)(members, others) == 0.25
    assert tpr_at(0.02)(members, others) == 0.75


def test_a_tie_with_an_other_is_no_find() -> None:
    assert tpr_at(0.01)(np.zeros(10), np.zeros(100)) == 0.0


@pytest.mark.parametrize(("fpr", "others", "can"), [(0.01, 100, True), (0.01, 99, False), (0.001, 999, False)])
def test_a_low_rate_needs_enough_others(fpr: float, others: int, can: bool) -> None:
    assert estimable(fpr, others) == can


def test_the_interval_is_over_patients_not_over_their_items() -> None:
    """Many items of a patient that say the same are no more evidence than one."""
    rng = np.random.default_rng(0)
    of_patient = [rng.normal(size=(12, 1)), rng.normal(size=(12, 1))]
    few, many = ([list(np.repeat(group, times, axis=1)) for group in of_patient] for times in (1, 50))
    intervals = [over_patients(auc, *groups, np.random.default_rng(1)) for groups in (few, many)]
    assert intervals[0] == intervals[1]
    assert intervals[0].low is not None
    assert intervals[0].high is not None
    assert 0.2 < intervals[0].high - intervals[0].low < 0.6


def test_one_patient_has_no_interval() -> None:
    interval = over_patients(auc, [np.ones(5)], [np.zeros(5), np.zeros(5)], np.random.default_rng(0))
    assert (interval.value, interval.low, interval.high) == (1.0, None, None)
