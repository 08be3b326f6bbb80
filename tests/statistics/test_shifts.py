"""Which hospital differs from the others, in which quantity, and whether the figures support it."""

import numpy as np
import pytest
from told_statistics import CONFIG, Answer, hospital, too_few

from fedserdiff.statistics.disclosure import told_counts, told_patients
from fedserdiff.statistics.shifts import beyond_chance, shifts_of
from fedserdiff.statistics.summary import summarised

OTHER = {0: [0, 0, 10]}
"""Ten units of five patients in the third cell."""


def answer(told: dict[str, Answer], refused: dict[str, str] | None = None) -> list[str]:
    sentences: list[str] = summarised(told, refused or {}, {}, CONFIG, "own")["answer"]
    return sentences


def distance(p: list[float], q: list[float]) -> float:
    """Jensen–Shannon's by its definition."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    bits = [sum(a * np.log2(a / m) for a, m in zip(one, middle, strict=True) if a) for one in (p, q)]
    return float(np.sqrt(sum(bits) / 2))


def test_distances_are_from_all_others_together_by_patient() -> None:
    """The others' 60 patients are 50 in the fourth cell and 10 in the third; of shares each counts by its patients."""
    told = {
        "a": hospital(50, volumes={0: [0, 0, 4, 6]}, intensities={1: [500, 500]}),
        "b": hospital(50, intensities={1: [1000]}),
        "c": hospital(10, volumes={0: [0, 0, 2]}, intensities={1: [0, 1000]}),
    }
    by_name = {(s.site, s.quantity.name, s.row): s for s in shifts_of(told, CONFIG)}
    assert len(by_name) == 3 * 13
    assert by_name["a", "volumes", "tc"].distance == pytest.approx(distance([0.4, 0.6], [1 / 6, 5 / 6]))
    assert by_name["a", "intensities", "t1ce"].distance == pytest.approx(distance([0.5, 0.5], [5 / 6, 1 / 6]))
    assert by_name["b", "volumes", "wt"].distance == 0
    assert by_name["c", "volumes", "tc"].distance == pytest.approx(distance([1, 0], [0.2, 0.8]))
    assert by_name["a", "intensities", "t1ce"].by_chance is None


def test_a_hospital_unlike_the_others_in_counts_is_named_with_what_it_differs_in() -> None:
    told = {"north": hospital(), "east": hospital(volumes=OTHER), "west": hospital()}
    first, *rest = answer(told)
    assert first.startswith(
        "east differs most from the others in tumour volume (TC): Jensen–Shannon distance 1.00, which chance does not"
    )
    assert not any("differs most" in sentence for sentence in rest)


def test_a_hospital_unlike_the_others_in_intensities_is_named_and_that_chance_is_unknown_is_said() -> None:
    told = {"north": hospital(), "east": hospital(), "west": hospital(intensities={3: [0, 0, 1000]})}
    first, counts, chance = answer(told)
    assert first.startswith("west differs most from the others in intensity in the brain (FLAIR): ")
    assert "no hospital differs from the others by more than chance" in counts
    assert "unknown" in chance


def test_hospitals_that_chance_alone_tells_apart_are_not_named() -> None:
    """Six federations of eight hospitals, many of them small, with patients drawn alike: one may name a hospital."""
    draws, named = np.random.default_rng(3), 0
    like = np.array([0.02, 0.03, 0.1, 0.3, 0.35, 0.15, 0.04, 0.01])
    for _ in range(6):
        told = {}
        for site in range(8):
            patients = int(draws.integers(8, 60))
            units = told_patients(patients)
            one = hospital(5 * units)
            one["volumes"][:] = told_counts(draws.multinomial(patients, like, 3), units)
            told[str(site)] = one
        shifts = shifts_of(told, CONFIG)
        assert max(s.distance for s in shifts) > 0.3, "so far apart, and yet by chance"
        named += bool(beyond_chance(shifts))
    assert named <= 1


def test_a_hospital_of_fifty_whose_tumours_are_one_cell_larger_is_found_among_like_ones() -> None:
    draws = np.random.default_rng(4)
    like = np.array([0.02, 0.03, 0.1, 0.3, 0.35, 0.15, 0.04, 0.01])
    told = {}
    for site in ("a", "b", "c", "d"):
        one = hospital(50)
        shares = np.roll(like, site == "d")
        one["volumes"][:] = told_counts(draws.multinomial(50, shares, 3), 10)
        told[site] = one
    assert {shift.site for shift in beyond_chance(shifts_of(told, CONFIG))} == {"d"}


def test_two_hospitals_differ_from_each_other() -> None:
    (first, *_) = answer({"north": hospital(), "east": hospital(volumes=OTHER)})
    assert first.startswith("north and east differ most in tumour volume (TC)")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "No hospital reported statistics: there is nothing to compare."),
        ({"west": too_few()}, "No hospital reported statistics: there is nothing to compare."),
        (
            {"west": too_few(), "north": hospital()},
            "Only north reported statistics: there is nothing to compare them with.",
        ),
    ],
)
def test_of_fewer_than_two_hospitals_nothing_is_compared(told: dict[str, Answer], said: str) -> None:
    assert answer(told)[0] == said


def test_hospitals_that_tell_the_same_are_not_told_apart() -> None:
    sentences = answer({site: hospital() for site in ("north", "east", "west")})
    assert len(sentences) == 1
    assert "no hospital differs" in sentences[0]


def test_who_told_nothing_is_said() -> None:
    told = {"north": hospital(), "east": too_few(), "south": too_few()}
    sentences = answer(told, {"west": "did not answer in time"})
    assert "Fewer than 5 training patients, so nothing else was reported: east, south." in sentences
    assert "west reported nothing: it did not answer in time." in sentences


def test_the_same_answers_give_the_same_figures() -> None:
    told = {"north": hospital(volumes={1: [2, 3, 5]}), "east": hospital(volumes=OTHER), "west": hospital()}
    assert summarised(told, {}, {}, CONFIG, "own") == summarised(told, {}, {}, CONFIG, "own")
