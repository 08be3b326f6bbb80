"""Membership in shared means: found if few patients were averaged, and not found for patients who were not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.privacy.moments import inner_products

Floats = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def told(patients: Floats, averaged: NDArray[np.bool_], asked: NDArray[np.bool_]) -> float:
    """The share of pairs in which one whom the attacker asks about scores above one who was not averaged."""
    scores = np.concatenate(inner_products(patients, asked, patients[averaged].mean(0), rng()))
    return float(np.mean(scores[asked][:, None] > scores[~averaged & ~asked]))


@pytest.fixture(scope="module")
def patients() -> Floats:
    """Classes in modalities that vary together, as those of real patients do."""
    mixing = rng(1).normal(size=(4, 4))
    return rng(2).normal(size=(300, 3, 4)) @ mixing + 5


@pytest.mark.parametrize(("count", "least", "most"), [(2, 0.85, 1.0), (50, 0.6, 0.8)])
def test_few_patients_are_told_from_others_and_many_are_hidden_by_each_other(
    patients: Floats, count: int, least: float, most: float
) -> None:
    """With 12 numbers and n patients averaged, members and others lie some sqrt(12 / n) deviations apart."""
    averaged = np.arange(300) < count
    assert least <= told(patients, averaged, averaged) <= most


def test_patients_who_were_not_averaged_are_told_from_nobody(patients: Floats) -> None:
    averaged = np.arange(300) < 5
    asked = (np.arange(300) >= 5) & (np.arange(300) < 150)
    assert told(patients, averaged, asked) == pytest.approx(0.5, abs=0.06)


def test_scores_do_not_depend_on_the_modalities_scales(patients: Floats) -> None:
    averaged = np.arange(300) < 5
    scaled = patients * 3.0
    plain = inner_products(patients, averaged, patients[averaged].mean(0), rng())
    assert np.concatenate(inner_products(scaled, averaged, scaled[averaged].mean(0), rng())) == pytest.approx(
        np.concatenate(plain), rel=1e-6
    )


def test_a_class_that_a_patient_lacks_or_that_is_not_shared_counts_nothing(patients: Floats) -> None:
    averaged = np.arange(300) < 5
    shared = patients[averaged].mean(0)
    lacking = patients.copy()
    lacking[0, 2] = np.nan
    of_two = inner_products(patients[:, :2], averaged, shared[:2], rng())
    assert inner_products(lacking, averaged, shared, rng())[0] == pytest.approx(of_two[0])
    shared[2] = 0
    assert np.concatenate(inner_products(patients, averaged, shared, rng())) == pytest.approx(np.concatenate(of_two))


def test_where_nothing_is_shared_all_score_alike(patients: Floats) -> None:
    assert not np.concatenate(inner_products(patients, np.arange(300) < 5, np.zeros((3, 4)), rng())).any()
