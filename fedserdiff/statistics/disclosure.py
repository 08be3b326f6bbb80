"""Rounding of histograms before they leave, so that no cell of fewer than 5 patients is reported or can be inferred.

Every histogram adds up to its reported total: cells of fewer than 5 patients become 0, and the others share the total
in proportion (controlled rounding, after Cox, JASA 1987; assigning small cells to the others is our choice). The total
minus all cells is therefore always 0. A hospital whose small cells are all empty would report the same.
"""

import numpy as np
from numpy.typing import NDArray

from fedserdiff.statistics.cells import SHARES
from fedserdiff.wire import COUNTS_ROUNDED_TO

LEAST_PATIENTS = COUNTS_ROUNDED_TO
"""A cell with fewer patients is reported as 0, and a hospital with fewer patients reports nothing."""


def told_patients(patients: int) -> int:
    """Return a number of patients in units of `COUNTS_ROUNDED_TO`, rounded; 0 if they are too few."""
    return round(patients / COUNTS_ROUNDED_TO) if patients >= LEAST_PATIENTS else 0


def told_counts(counts: NDArray[np.integer], total: int) -> NDArray[np.int32]:
    """Return histograms of patients in the form in which they are reported.

    Parameters
    ----------
    counts : ndarray of shape (..., cells)
        Number of patients in each cell.
    total : int
        Sum of each histogram, from `told_patients`.

    Returns
    -------
    ndarray of shape (..., cells), int32
        Counts in units of `COUNTS_ROUNDED_TO`; all 0 if no cell has enough patients. A cell with enough has at least 1.
    """
    return _apportioned(np.where(counts >= LEAST_PATIENTS, counts, 0).astype(np.float64), total)


def told_shares(shares: NDArray[np.floating], patients: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return histograms of voxels' shares in the form in which they are reported.

    Parameters
    ----------
    shares : ndarray of shape (..., cells)
        Means, over patients, of each patient's shares.
    patients : ndarray of shape (..., cells)
        Number of patients with voxels in each cell; cells with too few become 0.

    Returns
    -------
    ndarray of shape (..., cells), int32
        Thousandths, which add up to 1000, or to 0 if no cell has enough patients.
    """
    return _apportioned(np.where(patients >= LEAST_PATIENTS, shares, 0.0).astype(np.float64), SHARES)


def _apportioned(weights: NDArray[np.float64], whole: int) -> NDArray[np.int32]:
    """Apportion whole units in proportion to weights by largest remainders; ties go to the first cell."""
    total = weights.sum(-1, keepdims=True)
    quota = whole * weights / np.where(total > 0, total, 1)
    units = np.floor(quota + 1e-9)
    left = np.where(total > 0, whole - units.sum(-1, keepdims=True), 0)
    rank = np.argsort(np.argsort(units - quota, axis=-1, kind="stable"), axis=-1)
    return np.asarray(units + (rank < left), np.int32)
