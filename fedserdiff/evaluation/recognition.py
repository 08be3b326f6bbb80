"""Recognition of the hospital that a scan comes from, by the scan's appearance; no network and no label is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SURE = 0.9
"""Smallest probability of the nearest hospital with which a scan counts as recognised (our choice)."""

_PERCENTILES = (1, 5, 10, 25, 75, 90, 95, 99)
_QUARTILES = _PERCENTILES.index(25), _PERCENTILES.index(75)
_LEAST = 1e-6
_MOST_VOXELS = 100_000  # of a brain, for histogram and correlations (our choice; at 3 mm a brain has fewer)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recognition:
    """The two hospitals whose scans a scan resembles most, and the probability of the nearest.

    The probability assumes that a scan is from one of the hospitals, and from each as likely.
    """

    nearest: str
    second: str
    probability: float

    @property
    def sure(self) -> bool:
        """Whether the scan counts as recognised."""
        return self.probability >= SURE


class Recogniser:
    """Linear discriminant analysis of scans' appearances, with Ledoit and Wolf's shrinkage (scikit-learn's).

    Parameters
    ----------
    appearances : mapping of str to sequence of ndarray
        `appearance` of scans of each hospital: at least two hospitals, at least one scan each.

    Raises
    ------
    ValueError
        If there are not more scans than hospitals.
    """

    def __init__(self, appearances: Mapping[str, Sequence[Floats]]) -> None:
        self._names = list(appearances)
        scans = np.concatenate([np.stack(of_one) for of_one in appearances.values()])
        whose = np.repeat(np.arange(len(appearances)), [len(of_one) for of_one in appearances.values()])
        equal = np.full(len(appearances), 1 / len(appearances))
        analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=equal)
        self._model = make_pipeline(StandardScaler(), analysis).fit(scans, whose)

    def recognise(self, scan: Floats) -> Recognition:
        """Return the hospitals that a scan with this appearance may come from."""
        probabilities = self._model.predict_proba(scan[None])[0]
        second, nearest = np.argsort(probabilities, kind="stable")[-2:]
        return Recognition(self._names[nearest], self._names[second], float(probabilities[nearest]))


def appearance(image: NDArray[np.floating]) -> Floats:
    """Describe a scan in numbers that do not change if a modality's intensities are scaled or shifted.

    They are percentiles of each modality in the brain, relative to its median and interquartile range; the correlations
    between modalities; and, for each modality, its mean gradient within slices and the ratio of its gradient across
    slices to that within them, which falls with thick slices (our choice).

    Parameters
    ----------
    image : ndarray of shape (M, X, Y, Z)
        Modalities on the working grid, 0 outside the brain.

    Returns
    -------
    ndarray of shape (8 M + M (M − 1) / 2 + 2 M,)
    """
    scan = np.asarray(image, np.float32)
    brain = (scan != 0).any(0)
    voxels = scan[:, brain]
    voxels = voxels[:, :: max(1, voxels.shape[1] // _MOST_VOXELS)].astype(float)
    percentiles = np.percentile(voxels, _PERCENTILES, axis=1).T
    low, high = (percentiles[:, place] for place in _QUARTILES)
    spread = np.maximum(high - low, _LEAST)[:, None]
    histogram = (percentiles - np.median(voxels, axis=1, keepdims=True)) / spread
    deviations = voxels - voxels.mean(1, keepdims=True)
    deviations /= np.maximum(np.linalg.norm(deviations, axis=1, keepdims=True), _LEAST)
    correlations = (deviations @ deviations.T)[np.triu_indices(len(scan), 1)]
    x, y, z = (_gradients(scan, brain, axis) + _LEAST for axis in (1, 2, 3))
    within = (x + y) / 2
    return np.concatenate([histogram.ravel(), correlations, np.log(within / spread[:, 0]), np.log(z / within)])


def _gradients(image: NDArray[np.float32], brain: NDArray[np.bool_], axis: int) -> Floats:
    """Return each modality's mean absolute difference between neighbouring brain voxels along an axis."""
    both = np.moveaxis(brain, axis - 1, 0)
    both = both[1:] & both[:-1]
    steps = np.abs(np.diff(np.moveaxis(image, axis, 1), axis=1))
    sums: Floats = (steps * both).sum((1, 2, 3), dtype=float)
    return sums / max(int(both.sum()), 1)
