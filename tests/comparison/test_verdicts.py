"""Which method is said to beat which, and for what reason."""

import itertools
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from fedserdiff.comparison.verdicts import compared, holm, judge, p_value, said
from fedserdiff.evaluation.bootstrap import Estimate, Resampling, Sample, StreamScores

REPLICATES = 2000


def difference(at_most_0: int, seeds: int = 3, replicates: int = REPLICATES, value: float = 0.05) -> Estimate:
    """A difference of 5 points, so many of whose replicates do not exceed 0."""
    drawn = np.concatenate([np.linspace(-0.02, -0.01, at_most_0), np.linspace(0.01, 0.09, replicates - at_most_0)])
    return Estimate(value, drawn, Sample(seeds, 12))


def texts(*results: list[dict[str, Any]]) -> list[list[str]]:
    judged = judge([{"scored": "test", "verdicts": verdicts} for verdicts in results])
    return [[one["text"] for one in result["verdicts"]] for result in judged]


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for p in (rng.uniform(0, 1, 1), rng.uniform(0, 0.02, 5), rng.integers(1, 4, 9) / 99, rng.uniform(0, 0.1, 30)):
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []


def test_p_is_twice_the_share_beyond_0_and_never_0() -> None:
    assert p_value(difference(0).replicates) == pytest.approx(2 / 2001)
    assert p_value(difference(20).replicates) == pytest.approx(2 * 21 / 2001)
    assert p_value(-difference(20).replicates) == pytest.approx(2 * 21 / 2001), "two-sided"
    assert p_value(np.zeros(99)) == 1, "a difference that is 0 in every draw"


def test_p_of_one_seed_of_one_site_is_that_of_an_exhaustive_bootstrap() -> None:
    """Five patients: 5⁵ equally likely draws, enumerated; 2000 of them drawn by chance come near."""
    gains = np.array([0.1013, 0.0707, -0.0531, 0.0211, -0.0617])
    patients = {"only": [f"p{n}" for n in range(5)]}
    draws = Resampling({0: patients}, shared_patients=True, replicates=REPLICATES)

    def final(scores: np.ndarray) -> Estimate:
        run = StreamScores({"only": scores[None]}, patients, {"only": 0}, True)
        found = draws.estimates({0: run})["final"]
        assert found is not None
        return found

    means = [np.mean(draw) for draw in itertools.product(gains, repeat=5)]
    exact = 2 * min(np.mean([m <= 0 for m in means]), np.mean([m >= 0 for m in means]))
    paired = final(0.5 + gains) - final(np.full(5, 0.5))
    assert p_value(paired.replicates) == pytest.approx(exact, abs=0.04)
    assert paired.sample == Sample(1, 5)


def test_a_difference_that_is_clear_is_told_with_what_it_is_of() -> None:
    ((won,),) = texts([compared("ser-diff-plus", "fine-tune", difference(0))])
    ((lost,),) = texts(
        [compared("ser-diff-plus", "fine-tune", Estimate(-0.05, -difference(0).replicates, Sample(3, 12)))]
    )
    assert won == (
        "ser-diff-plus beats fine-tune: +5.0 [+1.2, +8.8] points of mean Dice, 12 test patients, 3 seeds, "
        "adjusted p = 0.001."
    )
    assert lost.startswith("ser-diff-plus loses to fine-tune: −5.0 [−8.8, −1.2] points of mean Dice")


def test_a_difference_says_whose_scores_it_is_of() -> None:
    study = [
        compared("with", "without", difference(0)),
        compared("a", "b", Estimate(0, np.full(9, np.nan), Sample(3, 3))),
    ]
    (clear, few), (other,) = (
        [one["text"] for one in result["verdicts"]]
        for result in judge([{"scored": "validation", "verdicts": study}, {"scored": "test", "verdicts": [study[0]]}])
    )
    assert ", 12 validation patients, 3 seeds" in clear
    assert "too few validation patients for an interval" in few
    assert ", 12 test patients, 3 seeds" in other


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (difference(200), "the interval includes 0, adjusted p = 0.2"),
        (difference(0, seeds=2), "fewer than 3 seeds"),
        (difference(0, seeds=1), "1 seed, fewer than 3 seeds"),
        (
            Estimate(0.05, np.full(9, np.nan), Sample(3, 3)),
            "+5.0 points of mean Dice, 3 test patients, 3 seeds, too few",
        ),
    ],
)
def test_what_is_not_clear_cannot_be_told_either_way(given: Estimate, why: str) -> None:
    ((text,),) = texts([compared("ser-diff", "fine-tune", given)])
    assert text.startswith("ser-diff or fine-tune: undecided: +5.0")
    assert why in text
    assert not any(word in text for word in ("beats", "beat ", "loses"))


def test_more_comparisons_on_a_page_raise_the_bar_for_each() -> None:
    """p = 0.022 alone; among three of a page 0.044 and 0.066."""
    once = compared("a", "b", difference(21))
    clear = compared("c", "d", difference(0))
    nothing = compared("e", "f", difference(900))
    assert texts([once])[0][0].startswith("a beats b")
    assert texts([once, clear])[0][0].startswith("a beats b")
    (mine, _), (other,) = texts([once, clear], [once])
    assert mine.startswith("a beats b"), "0.001 × 3, then 0.022 × 2"
    assert other.startswith("a beats b")
    (mine, *_), _ = texts([once, nothing], [once])
    assert mine.startswith("a or b: undecided"), "0.022 × 3"
    assert "not significant after correction for the number of comparisons, adjusted p = 0.066" in mine


def test_what_cannot_be_told_for_want_of_seeds_does_not_cost_the_others_anything() -> None:
    once, without = compared("a", "b", difference(21)), compared("c", "d", difference(0, seeds=1))
    (first, _), (more,) = texts([once, without], [without])
    assert first.startswith("a beats b")
    assert "undecided" in more
    (judged,) = judge([{"scored": "test", "verdicts": [once, without]}])
    assert judged["rule"].endswith("by Holm's procedure for the comparisons on this page that have a p: 1.")


def test_an_interval_and_a_verdict_never_contradict_each_other() -> None:
    for at_most_0 in range(200):
        (judged,) = judge([{"scored": "test", "verdicts": [compared("a", "b", difference(at_most_0))]}])
        (one,) = judged["verdicts"]
        if " beats " in one["text"]:
            assert one["low"] > 0
            assert one["p_adjusted"] <= 0.05
        if one["low"] <= 0:
            assert "undecided" in one["text"]


def test_results_that_are_judged_again_with_others_are_judged_anew() -> None:
    alone = judge([{"scored": "test", "verdicts": [compared("a", "b", difference(21))]}])
    others = [compared("e", "f", difference(900)), compared("e", "g", difference(900))]
    again = judge([*alone, {"scored": "validation", "verdicts": others}])
    assert " beats " in alone[0]["verdicts"][0]["text"]
    assert " beats " not in again[0]["verdicts"][0]["text"]
    assert judge(again[:1]) == alone
    assert said(["First."], again[0])[0] == "First."
    assert said(["First."], again[0])[-1] == again[0]["rule"]
    assert said(["Alone."], {"title": "a study without comparisons"}) == ["Alone."]
