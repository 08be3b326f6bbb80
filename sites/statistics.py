"""Statistics of a hospital's training patients before training: histograms that count each patient once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.cells import (
    INTENSITIES,
    INTENSITY_WIDTH,
    INTENSITY_WITHIN,
    PATIENTS,
    QUANTITIES,
    SPACING,
    SPACING_ENDS_MM,
    TUMOUR_INTENSITIES,
    VOLUME_ENDS_ML,
    VOLUMES,
)
from fedserdiff.statistics.disclosure import LEAST_PATIENTS, told_counts, told_patients, told_shares

_EXACT = 6  # decimals of ml and mm: rounding errors of single precision must not move 1 mm into the next cell


class _Shares:
    """Accumulator of mean voxel shares by cell, (M, cells), and of the number of patients with each cell."""

    def __init__(self, config: Settings) -> None:
        shape = INTENSITIES.shape(config)
        self._sum = np.zeros(shape)
        self._having = np.zeros(shape, np.int64)
        self._patients = 0

    def add(self, values: NDArray[np.float16]) -> None:
        """Add one patient's intensities, (M, voxels)."""
        if not values.size:
            return
        cells = np.stack([np.bincount(_cells_of(one), minlength=self._sum.shape[1]) for one in values])
        self._sum += cells / values.shape[1]
        self._having += cells > 0
        self._patients += 1

    def told(self) -> NDArray[np.int32]:
        return told_shares(self._sum / max(self._patients, 1), self._having)


def statistics_of(cases: Sequence[CachedCase], config: Settings) -> dict[str, NDArray[np.int32]]:
    """Return a hospital's histograms in the form that may leave, by name, each with the shape of its `Quantity`.

    For a patient with several cases, the first by name counts. Cases are read one after another and not kept.

    Parameters
    ----------
    cases : sequence of CachedCase
        The hospital's training cases.
    config : Settings
        Settings with modalities and regions.

    Returns
    -------
    dict of ndarray, int32
        ``patients`` of shape (1,), ``volumes`` by region and ``spacing``, all rounded to 5 patients. Spacing is that of
        the original scans: in-plane (the shortest side of a voxel) and slice thickness (the longest). ``intensities``
        of z-scored brain voxels and ``tumour-intensities`` of voxels in any region are by modality, in thousandths:
        means over patients of a patient's shares. Everything is 0 with fewer than 5 patients.
    """
    chosen = _one_each(cases)
    told = {quantity.name: np.zeros(quantity.shape(config), np.int32) for quantity in QUANTITIES}
    total = told_patients(len(chosen))
    told[PATIENTS] = np.array([total], np.int32)
    if len(chosen) < LEAST_PATIENTS:
        return told
    volumes, spacing = (np.zeros(quantity.shape(config), np.int64) for quantity in (VOLUMES, SPACING))
    brain, tumour = _Shares(config), _Shares(config)
    for case in chosen:
        patient = _read(case.prepared)
        volumes[np.arange(len(volumes)), np.searchsorted(VOLUME_ENDS_ML, patient.volumes_ml)] += 1
        spacing[np.arange(len(spacing)), np.searchsorted(SPACING_ENDS_MM, patient.spacing_mm)] += 1
        brain.add(patient.brain)
        tumour.add(patient.tumour)
    told |= {VOLUMES.name: told_counts(volumes, total), SPACING.name: told_counts(spacing, total)}
    return told | {INTENSITIES.name: brain.told(), TUMOUR_INTENSITIES.name: tumour.told()}


class _Patient(NamedTuple):
    """One patient's volumes by region, shortest and longest voxel side, and intensities, (M, voxels)."""

    volumes_ml: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    brain: NDArray[np.float16]
    tumour: NDArray[np.float16]


def _one_each(cases: Iterable[CachedCase]) -> list[CachedCase]:
    """Return the first case by name of each patient."""
    first: dict[str, CachedCase] = {}
    for case in sorted(cases, key=lambda cached: cached.case.name):
        first.setdefault(case.case.patient, case)
    return list(first.values())


def _read(prepared: PreparedCase) -> _Patient:
    geometry, truth = prepared.geometry, prepared.truth
    voxels = truth.reshape(len(truth), -1).sum(1, dtype=np.int64)
    _, image, mask = prepared.boxed()
    sides = [round(side, _EXACT) for side in geometry.spacing_mm]
    return _Patient(
        np.round(voxels * geometry.voxel_ml, _EXACT), (min(sides), max(sides)), image[:, (image != 0).any(0)],
        image[:, mask.any(0)],
    )  # fmt: skip


def _cells_of(values: NDArray[np.float16]) -> NDArray[np.intp]:
    cells = np.floor((values.astype(np.float32) + INTENSITY_WITHIN) / INTENSITY_WIDTH)
    return np.asarray(cells.clip(0, len(INTENSITIES.cells) - 1), np.intp)
