"""The split of patients into training, validation and test."""

from collections.abc import Sequence

import pytest

from fedserdiff.data.split import Split, split_patients
from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

CONFIG = make_settings("smoke")
CASES = ("a-1", "a-2", "b-1", "c-1", "d-1", "e-1", "e-2", "f-1")
"""Cases of six patients, two of whom have two scans."""

IN_ORDER = "dfcbea"
"""The patients by what ``sha256sum`` says of their names."""


def split(
    cases: Sequence[str],
    test_share: float = 0.2,
    validation_share: float = 0.0,
    test: Sequence[str] = (),
    validation: Sequence[str] = (),
    scored: str = "test",
) -> Split:
    """Split cases whose patient is what stands before the last dash."""
    shares = {"data.test_share": test_share, "data.validation_share": validation_share, "scoring.patients": scored}
    site = Site("north", "brats2021", "", (), tuple(test), tuple(validation))
    return split_patients(site, {case: case.rpartition("-")[0] for case in cases}, CONFIG.replace(shares))


def patients(count: int) -> list[str]:
    return [f"patient {number}-0" for number in range(count)]


@pytest.mark.parametrize(("test_share", "validation_share"), [(0.01, 0.0), (0.2, 0.0), (0.4, 0.4), (0.2, 0.01)])
@pytest.mark.parametrize("count", range(3, 31))
def test_a_split_covers_all_patients_once_with_the_shares_held_out(
    count: int, test_share: float, validation_share: float
) -> None:
    found = split(patients(count), test_share, validation_share)
    sides = [found.training, found.validation, found.test]
    assert sum(map(len, sides)) == len(frozenset().union(*sides)) == count
    assert found.training
    assert found.test
    assert bool(found.validation) == (validation_share > 0)
    assert abs(len(found.test) - test_share * count) <= 1
    assert abs(len(found.validation) - validation_share * count) <= 1


def test_test_patients_do_not_move_whatever_the_validation_share_is() -> None:
    without = split(patients(40), 0.25)
    assert len(without.test) == 10
    before: frozenset[str] = frozenset()
    for share, count in ((0.001, 1), (0.1, 4), (0.25, 10), (0.7, 28)):
        found = split(patients(40), 0.25, share)
        assert found.test == without.test
        assert len(found.validation) == count
        assert before < found.validation < without.training, "a larger share adds patients, and moves none"
        before = found.validation


def test_a_split_depends_on_neither_order_nor_repetition() -> None:
    cases = [*patients(20), *(f"patient {number}-1" for number in range(5))]
    assert split(cases[::-1], 0.2, 0.2) == split(patients(20), 0.2, 0.2)


def test_a_split_does_not_follow_enrolment() -> None:
    found = split(patients(40), 0.25, 0.25)
    ten = [frozenset(f"patient {number}" for number in range(start, start + 10)) for start in range(0, 40, 10)]
    assert found.test not in ten
    assert found.validation not in ten


def test_the_split_of_known_patients_never_changes() -> None:
    # The order is that of SHA-256: another one would move test patients into training between versions.
    cases = [f"BraTS2021_{n:05d}-0" for n in range(10)]
    assert split(cases).test == {"BraTS2021_00001", "BraTS2021_00004"}
    held_out = split(cases, validation_share=0.3)
    assert (held_out.test, held_out.validation) == (
        {"BraTS2021_00001", "BraTS2021_00004"},
        {"BraTS2021_00003", "BraTS2021_00005", "BraTS2021_00008"},
    )


@pytest.mark.parametrize(
    ("share", "cases", "says"),
    [
        (0.0, [], "0 patients cannot be split into training and test; at least 2 are needed"),
        (0.0, ["a-1"], "1 patient cannot be split into training and test; at least 2 are needed"),
        (0.0, ["a-1", "a-2"], "1 patient cannot be split into training and test; at least 2 are needed"),
        (0.1, ["a-1", "a-2"], "1 patient cannot be split into training, validation and test; at least 3 are needed"),
        (0.1, ["a-1", "b-1"], "2 patients cannot be split into training, validation and test; at least 3 are needed"),
    ],
)
def test_too_few_patients_are_refused(share: float, cases: list[str], says: str) -> None:
    with pytest.raises(DataError, match=f"^site north: {says}$"):
        split(cases, validation_share=share)


def test_a_test_share_that_leaves_one_patient_leaves_nobody_to_validate_on() -> None:
    assert len(split(["a-1", "b-1", "c-1"], 0.6).training) == 1
    with pytest.raises(DataError, match=r"^site north: data.validation_share: 1 of 3 patients is left to hold out and"):
        split(["a-1", "b-1", "c-1"], 0.6, 0.1)


def test_named_cases_are_held_out_and_no_other() -> None:
    assert split(CASES, test=["c-1", "a-2", "a-1"]) == Split(frozenset("bdef"), frozenset(), frozenset("ac"))
    both = split(CASES, test=["d-1"], validation=["e-1", "e-2"])
    assert both == Split(frozenset("abcf"), frozenset("e"), frozenset("d"))
    assert split(CASES, 0.9, 0.05, test=["d-1"], validation=["e-1", "e-2"]) == both, "shares are of no account then"


def test_beside_named_cases_a_share_of_all_is_taken_from_the_others_in_their_order() -> None:
    first, second, third, fourth, *_ = IN_ORDER
    assert split(CASES, 0.34, 0.34) == Split(
        frozenset(IN_ORDER[4:]), frozenset((third, fourth)), frozenset((first, second))
    )
    of_second = [case for case in CASES if case.startswith(second)]
    assert split(CASES, 0.34, 0.34, test=of_second).validation == {first, third}, "two of six, one is tested on"
    assert split(CASES, 0.34, validation=of_second).test == {first, third}
    assert split(CASES, 0.01, 0.01, test=of_second).validation == {first}, "one at least"


@pytest.mark.parametrize("field", ["test", "validation"])
@pytest.mark.parametrize(
    ("named", "says"),
    [
        (["a-1", "a-2", "h-1", "a-3"], "no case a-3, h-1 here$"),
        (["a-1"], "a-2: another scan of this patient is held out"),
        (["e-1", "a-1"], "a-2, e-2: another scan of this patient is held out"),
    ],
    ids=["missing", "torn patient", "two torn patients"],
)
def test_a_list_that_cannot_be_is_refused_naming_site_and_field(field: str, named: list[str], says: str) -> None:
    with pytest.raises(DataError, match=f"^site north: {field}_cases: {says}"):
        split(CASES, **{field: named})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("test", "validation", "says"),
    [
        (["b-1"], ["c-1", "b-1"], "validation_cases: b-1: also in test_cases"),
        (["a-1"], ["a-2"], "test_cases: a-2: another scan of this patient is held out"),
        (CASES, [], "test_cases: every patient is held out, none is left for training$"),
        (CASES[:3], CASES[3:], "test_cases, validation_cases: every patient is held out, none is left for training$"),
        ([], CASES[:-1], "data.test_share: 1 of 6 patients is left to hold out and train on; at least 2"),
    ],
    ids=["on both sides", "torn between both", "nobody left", "nobody left of both", "nobody to test on"],
)
def test_two_lists_that_cannot_be_are_refused(test: Sequence[str], validation: Sequence[str], says: str) -> None:
    with pytest.raises(DataError, match=f"^site north: {says}"):
        split(CASES, test=test, validation=validation)


def test_scores_of_validation_patients_need_some() -> None:
    with pytest.raises(DataError, match=r"^site north: scoring.patients: validation, but .* set data.validation_share"):
        split(CASES, scored="validation")
    assert split(CASES, validation=["b-1"], scored="validation").validation == {"b"}
    assert split(CASES, validation_share=0.1, scored="validation").validation
