"""Every method named in the registry has both of its halves."""

import pkgutil
from pathlib import Path

import pytest

from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, get_method
from fedserdiff.settings.sources import make_settings
from sites.objectives.base import Objective
from strategies.stream import ArrivalStream


@pytest.mark.parametrize("name", METHODS)
def test_both_halves_of_a_method_can_be_made(name: str) -> None:
    method, config = get_method(name), make_settings("smoke", method=name)
    strategy = pkgutil.resolve_name(method.strategy)
    objective = pkgutil.resolve_name(method.objective)
    assert issubclass(strategy, ArrivalStream)
    assert issubclass(objective, Objective)
    assert isinstance(strategy(config), strategy)
    assert isinstance(objective(config), objective), "it is no abstract class"
    assert method.strategy.startswith("strategies.")
    assert method.objective.startswith("sites.objectives.")
    assert method.summary


def test_the_methods_are_these_and_two_of_them_break_privacy() -> None:
    assert set(METHODS) == {
        "ser-diff", "ser-diff-plus", "lesion-replay", "fine-tune", "distill", "ewc", "image-replay", "local",
        "rehearsal", "pooled", "fedavg", "fedavgm", "fedadam", "fedyogi", "fedtrimmedavg", "fedprox", "scaffold",
        "fedbn", "fedper", "lwf", "der", "mas",
    }  # fmt: skip
    assert {name for name, method in METHODS.items() if method.breaks_privacy} == {"rehearsal", "pooled"}
    assert {name for name, method in METHODS.items() if not method.federated} == {"local", "pooled"}


@pytest.mark.parametrize("name", METHODS)
def test_only_methods_that_break_privacy_look_into_other_hospitals(name: str) -> None:
    """A method whose objective takes the default gets its own hospital's cases alone."""
    objective = pkgutil.resolve_name(get_method(name).objective)
    takes_others = objective.training_cases is not Objective.training_cases
    assert takes_others == get_method(name).breaks_privacy


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown method 'magic': choose one of der, distill, ewc, .*, ser-diff, ser-diff-plus"
    ):
        get_method("magic")


def test_every_method_has_a_page_that_the_readme_links() -> None:
    root = Path(__file__).parents[1]
    pages = {page.stem for page in (root / "docs" / "explanation" / "methods").glob("*.md")}
    assert pages == set(METHODS)
    readme = (root / "README.md").read_text()
    assert all(f"docs/explanation/methods/{name}.md" in readme for name in METHODS)
