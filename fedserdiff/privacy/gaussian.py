"""Differential privacy with Gaussian noise: the privacy budget that a hospital's releases spend."""

import math
from typing import Any

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

from fedserdiff.settings.experiment import Settings

DELTA = 1e-5
"""The δ for which ε is reported (our choice; only the reported figure depends on it)."""


def epsilon(noise: float, releases: int, delta: float = DELTA) -> float:
    """Return the ε of (ε, δ)-differential privacy for the composition of `releases` Gaussian mechanisms.

    They compose to one Gaussian mechanism whose noise is √releases times smaller (arXiv 1905.02383), for which the
    exact ε is known (arXiv 1805.06530, theorem 8), so the result is tight.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise divided by the sensitivity, above 0, the same for every release.
    releases : int
        Number of releases, at least 1; each may depend on all earlier ones.
    delta : float
        δ, in (0, 1).
    """
    mu = math.sqrt(releases) / noise

    def beyond(x: float) -> float:
        """Return the excess of the mechanism's δ at ε = μ (x + μ/2) over the given one: Φ(−x) − e^ε Φ(−x − μ) − δ."""
        return float(ndtr(-x) - math.exp(-x * x / 2) * erfcx((x + mu) / math.sqrt(2)) / 2 - delta)

    if beyond(-mu / 2) <= 0:
        return 0.0
    most = -float(ndtri(delta))  # at this x, the first of the two terms alone is δ
    return mu * (float(brentq(beyond, -mu / 2, most)) + mu / 2)


def noise_deviation(config: Settings) -> float:
    """Return the standard deviation of the noise on each weight's change in a round: noise × sensitivity 2C."""
    return 2 * config.privacy.dp_clip * config.privacy.dp_noise


def most_releases(config: Settings, site: int) -> int:
    """Return the most rounds in which hospital number `site`, from 0, trains and sends its change of weights."""
    return config.rounds * len(config.timetable.stages_of(config.sites[site].name))


def spent(config: Settings) -> dict[str, Any] | None:
    """Return the guarantee that a run's noise on weight changes gives each hospital; None without noise.

    Returns
    -------
    dict or None
        ``unit`` (the data that could be replaced without anybody noticing), ``noise``, ``clip`` and ``delta``, and, by
        site, ``releases`` and ``epsilon``. The guarantee covers the rounds' releases and everything computed from them.
        It does not cover the counts and scan hashes of an introduction, or scores of test patients.
    """
    if config.privacy.dp_noise == 0:
        return None
    releases = {site.name: most_releases(config, number) for number, site in enumerate(config.sites)}
    return {
        "unit": "all training patients of a hospital",
        "noise": config.privacy.dp_noise,
        "clip": config.privacy.dp_clip,
        "delta": DELTA,
        "releases": releases,
        "epsilon": {site: epsilon(config.privacy.dp_noise, count) for site, count in releases.items()},
    }
