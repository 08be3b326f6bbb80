"""How far each hospital lies from the others pooled, and what of it is more than chance among so few patients."""

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
"""By site, what it told."""

_LEAST_DRAWS, _DRAWS_A_SITE = 1000, 200  # five histograms a site are compared: a rarer chance than any needs to be
_STEPS = 50  # of which the last changes no share by as much as a thousandth
_TINY = 1e-300
_ROUNDED_OFF = COUNTS_ROUNDED_TO // 2  # patients, either way
_EQUAL = 1e-9  # distances of rounded counts are often equal


@dataclass(frozen=True)
class Shift:
    """How far one histogram of a site lies from that of all other sites together.

    Attributes
    ----------
    site : str
    quantity : Quantity
    row : str
        Which of its histograms: a region, a modality, a side of a voxel.
    distance : float
        Jensen–Shannon distance to base 2 (Endres and Schindelin, IEEE Trans. Inf. Theory 2003): 0 where both are
        equal, 1 where they have no cell in common.
    by_chance : float or None
        How often it lies at least as far where all sites' patients are drawn from all sites together and told alike;
        None of intensities, of which hospitals tell means over patients alone.
    """

    site: str
    quantity: Quantity
    row: str
    distance: float
    by_chance: float | None


def shifts_of(told: Told, config: Settings) -> list[Shift]:
    """Return the shifts of all sites, in order; none of a histogram that a site, or all others, did not tell."""
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
    """Return a histogram of all sites together, or of all but one, as shares; 0 where nobody told it."""
    weighed = [_weighed(one, quantity, number) for site, one in told.items() if site != left_out]
    everyone = np.sum(weighed, axis=0) if weighed else np.zeros(len(quantity.cells))
    return np.asarray(everyone / max(everyone.sum(), 1e-12))


def beyond_chance(shifts: Sequence[Shift]) -> list[Shift]:
    """Return the shifts of counts of patients that chance does not explain, by Holm's procedure over all of them."""
    counts = [(shift, shift.by_chance) for shift in shifts if shift.by_chance is not None]
    adjusted = holm([by_chance for _, by_chance in counts])
    return [shift for (shift, _), p in zip(counts, adjusted, strict=True) if p <= LEVEL]


def _weighed(told: Mapping[str, NDArray[np.int32]], quantity: Quantity, number: int) -> NDArray[np.float64]:
    """Return a site's histogram, of intensities as many times as it has patients: so that sites add up by patient."""
    cells = told[quantity.name][number].astype(np.float64)
    return cells if quantity.counts else np.asarray(cells * float(told[PATIENTS][0]))


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    far: NDArray[np.float64] = np.asarray(jensenshannon(one, other, base=2, axis=-1), np.float64)
    return np.asarray(np.where(np.isnan(far), 0.0, far))  # rounding may put a divergence of 0 below it


def _by_chance(
    far: Mapping[int, float], cells: NDArray[np.float64], totals: NDArray[np.int32], draws: np.random.Generator
) -> dict[int, float]:
    """Return how often sites that are all alike lie as far from the others as each does, by its place.

    Every site's patients are drawn from all sites together, as many as it may have, and told as sites tell them: who is
    compared, and whom with, vary by chance.
    """
    shares = _likely(cells, totals)
    count = max(_LEAST_DRAWS, _DRAWS_A_SITE * len(totals))
    drawn = np.stack([_drawn(int(total), shares, count, draws) for total in totals])
    everyone = drawn.sum(0)
    found = {}
    for place, distance in far.items():
        own, others = drawn[place], everyone - drawn[place]
        compared = own.any(-1) & others.any(-1)  # others would not have been
        further = _distance(own[compared], others[compared]) >= distance - _EQUAL
        found[place] = float((1 + further.sum()) / (1 + compared.sum()))
    return found


def _likely(cells: NDArray[np.float64], totals: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the shares of all sites' patients by cell, those included whose cells are told as 0.

    By expectation and maximisation (Dempster, Laird and Rubin, JRSS B 1977): a cell that is told as 0 holds as many of
    0 to 4 as a Poisson distribution expects of the site's patients, and the others hold the rest as they are told. From
    told cells alone small hospitals would look as if their patients were more alike than they are.
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
    """Return what `count` hospitals tell, (count, cells), each of some number of patients that is told as `total`."""
    patients = COUNTS_ROUNDED_TO * total + draws.integers(-_ROUNDED_OFF, _ROUNDED_OFF + 1, count)
    counts = draws.multinomial(np.maximum(patients, LEAST_PATIENTS), shares)
    return told_counts(counts, total).astype(np.float64)
