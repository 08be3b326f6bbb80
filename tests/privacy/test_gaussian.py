import math

import numpy as np
import pytest
from scipy.stats import norm

from fedserdiff.privacy.gaussian import epsilon, spent
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings


def delta_of(eps: float, noise: float, releases: int) -> float:
    """Integrate, on a grid, by how much the density of all the releases on one data set exceeds e^ε times another's.

    Both are Gaussian in as many dimensions as there are releases, a sensitivity apart in each: along the line through
    the two means they are √releases apart.
    """
    apart = math.sqrt(releases)
    x = np.linspace(-12 * noise, apart + 12 * noise, 400_001)
    excess = norm.pdf(x, apart, noise) - np.exp(eps) * norm.pdf(x, 0, noise)
    return float(np.trapezoid(np.clip(excess, 0, None), x))


@pytest.mark.parametrize(("noise", "releases", "delta"), [(1, 1, 1e-5), (4, 2, 1e-5), (2, 9, 1e-3), (0.7, 1, 1e-6)])
def test_epsilon_is_that_of_the_densities_themselves(noise: float, releases: int, delta: float) -> None:
    assert delta_of(epsilon(noise, releases, delta), noise, releases) == pytest.approx(delta, rel=1e-3)


def test_noise_that_hides_the_data_spends_nothing() -> None:
    assert epsilon(100, 1, delta=0.1) == 0


@pytest.mark.parametrize("noise", [1e-2, 1e-5, 1e-8])
def test_next_to_no_noise_has_an_epsilon_that_is_as_large_as_that(noise: float) -> None:
    assert epsilon(noise, 2) == pytest.approx(1 / noise**2, rel=10 * noise)  # μ² / 2, for large μ


def test_a_run_spends_by_how_often_each_hospital_trains() -> None:
    sites = tuple(Site(name, "brats2021", "") for name in ("north", "east"))
    config = make_settings("smoke", {"training.rounds": 3, "privacy.dp_noise": 4.0}, method="fine-tune", sites=sites)
    assert spent(config.replace({"privacy.dp_noise": 0.0})) is None
    arriving, cumulative = spent(config), spent(config.replace({"training.participation": "cumulative"}))
    assert arriving is not None
    assert cumulative is not None
    assert arriving["releases"] == {"north": 3, "east": 3}
    assert arriving["epsilon"]["north"] == arriving["epsilon"]["east"] == epsilon(4, 3)
    assert cumulative["releases"] == {"north": 6, "east": 3}
    assert cumulative["epsilon"]["north"] == epsilon(4, 6) > epsilon(4, 3)
