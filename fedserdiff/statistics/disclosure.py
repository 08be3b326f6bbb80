"""How histograms are rounded before they leave, so that no cell of fewer than 5 patients is told or can be worked out.

Every histogram adds up to its total as it is told: cells of fewer than 5 patients become 0, and the others share the
total in proportion (controlled rounding, after Cox, JASA 1987; that small cells are given to the others is our choice).
So totals minus cells is 0, always. What is told would be the same of a hospital whose small cells are all empty.
"""

import numpy as np
from numpy.typing import NDArray

from fedserdiff.statistics.cells import SHARES
from fedserdiff.wire import COUNTS_ROUNDED_TO

LEAST_PATIENTS = COUNTS_ROUNDED_TO
"""A cell that fewer patients fall in is told as 0, and a hospital of fewer patients tells nothing."""


def told_patients(patients: int) -> int:
    """Return a number of patients in units of `COUNTS_ROUNDED_TO`, rounded; 0 where they are too few."""
    return round(patients / COUNTS_ROUNDED_TO) if patients >= LEAST_PATIENTS else 0


def told_counts(counts: NDArray[np.integer], total: int) -> NDArray[np.int32]:
    """Return histograms of patients as they are told.

    Parameters
    ----------
    counts : ndarray of shape (..., cells)
        Patients in each cell.
    total : int
        What each histogram adds up to: from `told_patients`.

    Returns
    -------
    ndarray of shape (..., cells), int32
        In units of `COUNTS_ROUNDED_TO`; all 0 where no cell has enough patients. A cell of enough has at least 1.
    """
    return _apportioned(np.where(counts >= LEAST_PATIENTS, counts, 0).astype(np.float64), total)


def told_shares(shares: NDArray[np.floating], patients: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return histograms of voxels' shares as they are told.

    Parameters
    ----------
    shares : ndarray of shape (..., cells)
        Means over patients of each patient's shares.
    patients : ndarray of shape (..., cells)
        How many patients have voxels in each cell: cells of too few become 0.

    Returns
    -------
    ndarray of shape (..., cells), int32
        In thousandths, which add up to 1000, or to 0 where no cell has enough patients.
    """
    return _apportioned(np.where(patients >= LEAST_PATIENTS, shares, 0.0).astype(np.float64), SHARES)


def _apportioned(weights: NDArray[np.float64], whole: int) -> NDArray[np.int32]:
    """Share whole units out in proportion to weights by largest remainders; of equal ones the first cell gets more."""
    total = weights.sum(-1, keepdims=True)
    quota = whole * weights / np.where(total > 0, total, 1)
    units = np.floor(quota + 1e-9)
    left = np.where(total > 0, whole - units.sum(-1, keepdims=True), 0)
    rank = np.argsort(np.argsort(units - quota, axis=-1, kind="stable"), axis=-1)
    return np.asarray(units + (rank < left), np.int32)
