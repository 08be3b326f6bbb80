"""Differential privacy of what a hospital lets out with Gaussian noise: how much it spends."""

import math
from typing import Any

from scipy.optimize import brentq
from scipy.special import erfcx, ndtr, ndtri

from fedserdiff.settings.experiment import Settings

DELTA = 1e-5
"""At which ε is told (our choice; nothing depends on it but the figure that is shown)."""


def epsilon(noise: float, releases: int, delta: float = DELTA) -> float:
    """Return the ε of (ε, δ)-differential privacy of `releases` Gaussian mechanisms together.

    Together they are one Gaussian mechanism whose noise is √releases times smaller (arXiv 1905.02383), of which the
    exact ε is known (arXiv 1805.06530, theorem 8): no bound is given away.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise over the sensitivity, above 0, the same for every release.
    releases : int
        At least 1; each may depend on all before it.
    delta : float
        In (0, 1).
    """
    mu = math.sqrt(releases) / noise

    def beyond(x: float) -> float:
        """Return by how much the mechanism's δ at ε = μ (x + μ/2) exceeds the one wanted: Φ(−x) − e^ε Φ(−x − μ) − δ."""
        return float(ndtr(-x) - math.exp(-x * x / 2) * erfcx((x + mu) / math.sqrt(2)) / 2 - delta)

    if beyond(-mu / 2) <= 0:
        return 0.0
    most = -float(ndtri(delta))  # there the first of the two terms alone is δ
    return mu * (float(brentq(beyond, -mu / 2, most)) + mu / 2)


def noise_deviation(config: Settings) -> float:
    """Return the standard deviation of the noise on a round's change of each weight: noise times sensitivity, 2C."""
    return 2 * config.privacy.dp_clip * config.privacy.dp_noise


def most_releases(config: Settings, site: int) -> int:
    """Return in how many rounds the hospital with this number, from 0, trains at most: as often its change leaves."""
    return config.rounds * len(config.timetable.stages_of(config.sites[site].name))


def spent(config: Settings) -> dict[str, Any] | None:
    """Return what a run's noise on changes of weights promises each hospital; None where there is no noise.

    Returns
    -------
    dict or None
        ``unit``, whose data may all be others' without anybody being able to tell; ``noise``, ``clip`` and ``delta``;
        ``releases`` and ``epsilon``, each by site. The guarantee is of what rounds release and of all that is made of
        it; the counts and scan hashes of an introduction, and scores of test patients, are outside.
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
