"""The cells of hospitals' histograms, which are the same everywhere so that histograms can be added."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from fedserdiff.settings.experiment import Settings

PATIENTS = "patients"
"""Array with a hospital's number of training patients; 0 if they are too few to report anything."""

SHARES = 1000
"""Intensity histograms are reported in thousandths, which add up to this."""

_MOST_FIVES = 200_000  # a million patients


@dataclass(frozen=True)
class Quantity:
    """A kind of histogram.

    Attributes
    ----------
    name : str
        Name of its array, of shape (rows, cells), in a hospital's answer.
    title : str
        What it shows, for people.
    unit : str
        Unit of the cells' limits.
    cells : tuple of (float, float)
        Lower and upper limit of each cell.
    counts : bool
        Whether it counts patients, in multiples of `COUNTS_ROUNDED_TO`, or gives shares of voxels in thousandths.
    rows : callable
        Function from settings to the names of its histograms, in order.
    """

    name: str
    title: str
    unit: str
    cells: tuple[tuple[float, float], ...]
    counts: bool
    rows: Callable[[Settings], tuple[str, ...]]

    @property
    def most(self) -> int:
        """Largest value that a cell may have."""
        return _MOST_FIVES if self.counts else SHARES

    def shape(self, config: Settings) -> tuple[int, int]:
        """Return the shape of the array."""
        return len(self.rows(config)), len(self.cells)


def _between(*ends: float) -> tuple[tuple[float, float], ...]:
    return tuple(itertools.pairwise(ends))


VOLUME_ENDS_ML = (0.0, 1.0, 5.0, 20.0, 50.0, 100.0, 200.0)
"""Limits of volume cells, each excluding its lower one; before them is a cell for patients without the region
(our choice)."""

SPACING_ENDS_MM = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Limits of voxel size cells, each excluding its lower one (our choice)."""

INTENSITY_WIDTH = 0.5
INTENSITY_WITHIN = 6.0
"""Prepared intensities lie within 6 standard deviations: 24 cells, each excluding its upper limit (our choice)."""

# Eight cells: with 32 patients or fewer, each may hold four and be reported as 0, so none can be shown to hold anyone.
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
