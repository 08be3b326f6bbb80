"""The distance of each hospital's histograms from those of all others, and whether chance can explain it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import poisson

from fedserdiff.comparison.verdicts import LEVEL, holm
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.cells import PATIENTS, QUANTITIES, Quantity
from fedserdiff.statistics.disclosure import LEAST_PATIENTS, told_counts
from fedserdiff.wire import COUNTS_ROUNDED_TO

Told = Mapping[str, Mapping[str, NDArray[np.int32]]]
"""Reported arrays by site."""

_LEAST_DRAWS, _DRAWS_A_SITE = 1000, 200  # for five histograms per site: more than any test needs
_STEPS = 50  # the last one changes every share by less than a thousandth
_TINY = 1e-300
_ROUNDED_OFF = COUNTS_ROUNDED_TO // 2  # patients, in either direction
_EQUAL = 1e-9  # distances of rounded counts are often equal


@dataclass(frozen=True)
class Shift:
    """The distance of one of a site's histograms from that of all other sites together.

    Attributes
    ----------
    site : str
    quantity : Quantity
    row : str
        Name of the histogram: a region, a modality, or a side of a voxel.
    distance : float
        Jensen–Shannon distance to base 2 (Endres and Schindelin, IEEE Trans. Inf. Theory 2003): 0 if both are equal, 1
        if they have no cell in common.
    by_chance : float or None
        How often the distance is at least as large if all sites' patients are drawn from the pool of all sites and
        reported in the same way. None for intensities, of which hospitals report only means over patients.
    """

    site: str
    quantity: Quantity
    row: str
    distance: float
    by_chance: float | None


def shifts_of(told: Told, config: Settings) -> list[Shift]:
    """Return the shifts of all sites, in order, without histograms that the site or all others did not report."""
    found = []
    for quantity in QUANTITIES:
        for number, row in enumerate(quantity.rows(config)):
            cells = np.array([_weighed(one, quantity, number) for one in told.values()])
            others = cells.sum(0) - cells if len(cells) else cells
            there = [place for place in range(len(cells)) if cells[place].any() and others[place].any()]
            far = {place: float(_distance(cells[place], others[place])) for place in there}
            by_chance: dict[int, float] = {}
            if quantity.counts and there:
                draws = np.random.default_rng([config.seed, QUANTITIES.index(quantity), number])
                by_chance = _by_chance(far, cells, np.array([one[PATIENTS][0] for one in told.values()]), draws)
            found += [Shift(list(told)[p], quantity, row, d, by_chance.get(p)) for p, d in far.items()]
    return sorted(found, key=lambda shift: list(told).index(shift.site))


def pooled(told: Told, quantity: Quantity, number: int, left_out: str | None = None) -> NDArray[np.float64]:
    """Return the histogram of all sites, or of all except `left_out`, as shares; 0 if nobody reported it."""
    weighed = [_weighed(one, quantity, number) for site, one in told.items() if site != left_out]
    everyone = np.sum(weighed, axis=0) if weighed else np.zeros(len(quantity.cells))
    return np.asarray(everyone / max(everyone.sum(), 1e-12))


def beyond_chance(shifts: Sequence[Shift]) -> list[Shift]:
    """Return the shifts in counts of patients that chance does not explain, by Holm's procedure over all of them."""
    counts = [(shift, shift.by_chance) for shift in shifts if shift.by_chance is not None]
    adjusted = holm([by_chance for _, by_chance in counts])
    return [shift for (shift, _), p in zip(counts, adjusted, strict=True) if p <= LEVEL]


def _weighed(told: Mapping[str, NDArray[np.int32]], quantity: Quantity, number: int) -> NDArray[np.float64]:
    """Return a site's histogram; one of intensities is multiplied by its patients, so that sites add up by patient."""
    cells = told[quantity.name][number].astype(np.float64)
    return cells if quantity.counts else np.asarray(cells * float(told[PATIENTS][0]))


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    far: NDArray[np.float64] = np.asarray(jensenshannon(one, other, base=2, axis=-1), np.float64)
    return np.asarray(np.where(np.isnan(far), 0.0, far))  # rounding may turn a divergence of 0 negative


def _by_chance(
    far: Mapping[int, float], cells: NDArray[np.float64], totals: NDArray[np.int32], draws: np.random.Generator
) -> dict[int, float]:
    """Return how often identical sites would be as far from the others as each site is, by its index.

    Each site's patients are drawn from the pool of all sites, as many as it may have, and reported as sites report
    them. Both sides of the comparison vary by chance.
    """
    shares = _likely(cells, totals)
    count = max(_LEAST_DRAWS, _DRAWS_A_SITE * len(totals))
    drawn = np.stack([_drawn(int(total), shares, count, draws) for total in totals])
    everyone = drawn.sum(0)
    found = {}
    for place, distance in far.items():
        own, others = drawn[place], everyone - drawn[place]
        compared = own.any(-1) & others.any(-1)  # empty ones would not have been compared
        further = _distance(own[compared], others[compared]) >= distance - _EQUAL
        found[place] = float((1 + further.sum()) / (1 + compared.sum()))
    return found


def _likely(cells: NDArray[np.float64], totals: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the shares of all sites' patients by cell, including patients in cells that are reported as 0.

    It uses expectation maximisation (Dempster, Laird and Rubin, JRSS B 1977). A cell reported as 0 holds the number
    from 0 to 4 that a Poisson distribution expects for the site's patients; the others share the rest as reported. From
    reported cells alone, the patients of small hospitals would look more alike than they are.
    """
    told, patients = COUNTS_ROUNDED_TO * cells, COUNTS_ROUNDED_TO * totals[:, None]
    few = np.arange(LEAST_PATIENTS)[:, None, None]
    shares = (told.sum(0) + 1) / (told.sum() + cells.shape[1])
    for _ in range(_STEPS):
        chances = poisson.pmf(few, patients * shares)
        hidden = (few * chances).sum(0) / chances.sum(0).clip(_TINY) * (told == 0)
        whole = patients / hidden.sum(-1, keepdims=True).clip(_TINY)
        hidden *= np.where(told.any(-1, keepdims=True), np.minimum(1, whole), whole)
        expected = hidden + told * (1 - hidden.sum(-1, keepdims=True) / patients)
        shares = expected.sum(0) / expected.sum()
    return np.asarray(shares)


def _drawn(total: int, shares: NDArray[np.float64], count: int, draws: np.random.Generator) -> NDArray[np.float64]:
    """Return the reports, (count, cells), of `count` random hospitals with a number of patients reported as `total`."""
    patients = COUNTS_ROUNDED_TO * total + draws.integers(-_ROUNDED_OFF, _ROUNDED_OFF + 1, count)
    counts = draws.multinomial(np.maximum(patients, LEAST_PATIENTS), shares)
    return told_counts(counts, total).astype(np.float64)
