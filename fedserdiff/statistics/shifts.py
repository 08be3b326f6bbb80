"""How far each hospital lies from the others pooled, and what of it is more than chance among so few patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from fedserdiff.comparison.verdicts import LEVEL, holm
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.cells import PATIENTS, QUANTITIES, Quantity
from fedserdiff.statistics.disclosure import told_counts
from fedserdiff.wire import COUNTS_ROUNDED_TO

Told = Mapping[str, Mapping[str, NDArray[np.int32]]]
"""By site, what it told."""

_DRAWS = 9999  # hospitals of chance for each histogram of counts: 50 hospitals with five are 250 comparisons
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
        How often as many patients, drawn from all hospitals together and rounded alike, lie at least as far; None of
        intensities, of which hospitals tell means over patients alone.
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
            weighed = {site: _weighed(one, quantity, number) for site, one in told.items()}
            everyone = sum(weighed.values(), np.zeros(len(quantity.cells)))
            for place, (site, own) in enumerate(weighed.items()):
                others = everyone - own
                if own.sum() <= 0 or others.sum() <= 0:
                    continue
                far = float(_distance(own, others))
                by_chance = None
                if quantity.counts:
                    draws = np.random.default_rng([config.seed, QUANTITIES.index(quantity), number, place])
                    by_chance = _by_chance(far, int(own.sum()), everyone, others, draws)
                found.append(Shift(site, quantity, row, far, by_chance))
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
    return cells if quantity.counts else cells * float(told[PATIENTS][0])


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    far: NDArray[np.float64] = np.nan_to_num(np.asarray(jensenshannon(one, other, base=2, axis=-1)))
    return far


def _by_chance(
    far: float, units: int, everyone: NDArray[np.float64], others: NDArray[np.float64], draws: np.random.Generator
) -> float:
    """Return how often a hospital of as many patients that is like all together lies as far from the others."""
    patients = draws.multinomial(COUNTS_ROUNDED_TO * units, everyone / everyone.sum(), _DRAWS)
    drawn = told_counts(patients, units).astype(np.float64)
    there = drawn[drawn.any(-1)]  # one whose cells are all too small would not have been compared
    further = _distance(there, np.broadcast_to(others, there.shape)) >= far - _EQUAL
    return float((1 + further.sum()) / (1 + len(there)))
