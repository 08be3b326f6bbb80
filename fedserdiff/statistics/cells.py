"""The cells of hospitals' histograms: the same in every hospital, so that histograms add up."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from fedserdiff.settings.experiment import Settings

PATIENTS = "patients"
"""The array that says how many training patients a hospital has; 0 where they are too few to tell anything of."""

SHARES = 1000
"""An intensity histogram is told in thousandths, which add up to this."""

_MOST_FIVES = 200_000  # a million patients


@dataclass(frozen=True)
class Quantity:
    """A kind of histogram.

    Attributes
    ----------
    name : str
        Of its array, of shape (rows, cells), in a hospital's answer.
    title : str
        What it shows, for people.
    unit : str
        Of the cells' ends.
    cells : tuple of (float, float)
        Each cell's ends.
    counts : bool
        Whether it counts patients, in multiples of `COUNTS_ROUNDED_TO`; else it has shares of voxels in thousandths.
    rows : callable
        Returns the names of its histograms, in order, by settings.
    """

    name: str
    title: str
    unit: str
    cells: tuple[tuple[float, float], ...]
    counts: bool
    rows: Callable[[Settings], tuple[str, ...]]

    @property
    def most(self) -> int:
        """The greatest value that a cell may have."""
        return _MOST_FIVES if self.counts else SHARES

    def shape(self, config: Settings) -> tuple[int, int]:
        """Return the shape of its array."""
        return len(self.rows(config)), len(self.cells)


def _between(*ends: float) -> tuple[tuple[float, float], ...]:
    return tuple(itertools.pairwise(ends))


VOLUME_ENDS_ML = (0.0, 1.0, 5.0, 20.0, 50.0, 100.0, 200.0)
"""The first cell is of patients who do not show a region; the others go from above one end to the next (our choice)."""

SPACING_ENDS_MM = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Cells go from above one end to the next (our choice)."""

INTENSITY_WIDTH = 0.5
INTENSITY_WITHIN = 6.0
"""Prepared intensities lie within 6 standard deviations: 24 cells from each low end to below the next (our choice)."""

# Eight cells: in 32 patients or fewer each may hold four and be told as 0, and none can be shown to hold anyone.
VOLUMES = Quantity(
    "volumes", "tumour volume", "ml", ((0.0, 0.0), *_between(*VOLUME_ENDS_ML, math.inf)), True,
    lambda config: config.data.regions,
)  # fmt: skip
SPACING = Quantity(
    "spacing", "voxel size", "mm", _between(0.0, *SPACING_ENDS_MM, math.inf), True,
    lambda config: ("in-plane", "slice thickness"),
)  # fmt: skip
_STEPS = round(2 * INTENSITY_WITHIN / INTENSITY_WIDTH)
_OF_INTENSITIES = _between(*(INTENSITY_WIDTH * step - INTENSITY_WITHIN for step in range(_STEPS + 1)))
INTENSITIES = Quantity(
    "intensities", "intensity in the brain", "SD", _OF_INTENSITIES, False, lambda config: config.data.modalities
)
TUMOUR_INTENSITIES = Quantity(
    "tumour-intensities", "intensity in the tumour", "SD", _OF_INTENSITIES, False,
    lambda config: config.data.modalities,
)  # fmt: skip

QUANTITIES = (VOLUMES, SPACING, INTENSITIES, TUMOUR_INTENSITIES)
