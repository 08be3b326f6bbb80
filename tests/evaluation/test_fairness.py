import math

import pytest

from fedserdiff.evaluation.fairness import Fairness, fairness


def test_the_worst_site_is_named_and_the_spread_is_of_all_there_are() -> None:
    """Deviations from the mean 0.6 are 0.2, −0.2, 0 and 0: a variance of 0.08 / 4."""
    found = fairness({"north": 0.8, "west": 0.4, "east": 0.6, "south": 0.6})
    assert (found.worst_site, found.worst) == ("west", 0.4)
    assert found.spread == pytest.approx(math.sqrt(0.02))
    assert found.to_dict() == {"worst_site": "west", "worst": 0.4, "spread": found.spread}


def test_of_equal_sites_the_first_to_arrive_is_named() -> None:
    assert fairness({"b": 0.5, "a": 0.5}) == Fairness("b", 0.5, 0.0)


def test_sites_that_were_not_scored_do_not_count() -> None:
    assert fairness({"north": math.nan, "west": 0.4, "east": 0.6}).spread == pytest.approx(0.1)
    assert fairness({"north": math.nan}) == fairness({}) == Fairness(None, None, None)
