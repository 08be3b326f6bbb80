"""What reported histograms reveal, found by trying every hospital that would report the same."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedserdiff.statistics.disclosure import told_counts, told_patients, told_shares

Table = tuple[int, ...]
COUNTS = st.lists(st.one_of(st.integers(0, 12), st.integers(0, 400)), min_size=8, max_size=8)


def told(counts: Table) -> tuple[int, Table]:
    """Patients and cells as a hospital tells them, in patients."""
    total = told_patients(sum(counts))
    return 5 * total, tuple((5 * told_counts(np.array(counts), total)).tolist())


def test_a_histogram_that_is_worked_out_by_hand() -> None:
    # 27 patients are told as 25. Cells of 3 and 4 become 0, and 5, 5, 10 of 20 share five units: 1.25, 1.25, 2.5.
    assert told((3, 5, 4, 5, 10)) == (25, (0, 5, 0, 5, 15))
    # 12 are told as 10, and all are in one cell
    assert told((0, 12, 0, 0, 0)) == (10, (0, 10, 0, 0, 0))
    assert told((4, 4, 4, 4, 4)) == (20, (0, 0, 0, 0, 0))


@pytest.mark.parametrize(("patients", "units"), [(0, 0), (1, 0), (4, 0), (5, 1), (7, 1), (8, 2), (1251, 250)])
def test_patients_are_told_in_fives_and_fewer_than_five_not_at_all(patients: int, units: int) -> None:
    assert told_patients(patients) == units


@settings(max_examples=400, deadline=None, derandomize=True)
@given(COUNTS)
def test_small_cells_are_0_others_are_not_and_cells_add_up_to_the_total_as_it_is_told(counts: list[int]) -> None:
    total = told_patients(sum(counts))
    cells = told_counts(np.array(counts), total)
    assert [bool(cell) for cell in cells] == [count >= 5 for count in counts]
    assert cells.sum() in ((total,) if cells.any() else (0,))
    if cells.any():  # a hospital whose small cells are all empty tells the very same
        assert told(tuple((5 * cells).tolist())) == (5 * total, tuple((5 * cells).tolist()))


def test_no_cell_that_is_told_as_0_can_be_shown_to_hold_anybody_nor_any_count_be_known_exactly() -> None:
    """Group all hospitals of up to 22 patients in four cells by their reports, and compare within each group."""
    alike: dict[tuple[int, Table], list[Table]] = defaultdict(list)
    for counts in itertools.product(range(25), repeat=4):
        if 5 <= sum(counts) <= 22:  # all those that are told as 20 or fewer
            alike[told(counts)].append(counts)
    looked_at = 0
    for (_, cells), hospitals in alike.items():
        if not any(cells):
            continue
        for place, cell in enumerate(cells):
            possible = {counts[place] for counts in hospitals}
            assert len(possible) >= 3, (cells, possible)
            if cell == 0:
                assert min(possible) == 0, (cells, hospitals)
                looked_at += 1
    assert looked_at > 50


def test_where_no_cell_of_eight_is_told_each_may_still_be_empty() -> None:
    for patients in range(5, 33):  # the most that eight cells of four hold
        total = 5 * told_patients(patients)
        fewest = min(n for n in range(5, 34) if 5 * told_patients(n) == total)
        assert fewest <= 7 * 4, "seven cells hold all of them"


def test_shares_of_cells_that_few_patients_have_are_0_and_the_rest_adds_up_to_1000() -> None:
    shares, having = np.array([[0.5, 0.25, 0.2, 0.05]]), np.array([[9, 5, 4, 0]])
    assert told_shares(shares, having).tolist() == [[667, 333, 0, 0]]
    assert told_shares(shares, np.minimum(having, 4)).tolist() == [[0, 0, 0, 0]]


def test_many_hospitals_at_once_are_told_as_each_alone() -> None:
    draws: NDArray[np.int64] = np.random.default_rng(0).multinomial(23, np.ones(8) / 8, 200)
    assert told_counts(draws, 5).tolist() == [told_counts(one, 5).tolist() for one in draws]
