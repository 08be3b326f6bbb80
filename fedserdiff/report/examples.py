"""An example case to look at: the whole scan, the truth, and the output of student and teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """One scored case on the working grid, in RAS orientation.

    Attributes
    ----------
    site, case : str
        Hospital and name of the case.
    modality : str
        Modality of `image`, such as ``FLAIR``.
    regions : tuple of str
        Names of the R regions, in the order of the masks and maps.
    spacing_mm : tuple of float
        Voxel size in mm.
    image : ndarray of shape (X, Y, Z)
        The scan, 0 outside the brain.
    truth, coarse, refined : ndarray of shape (R, X, Y, Z), bool
        The true masks and the student's masks.
    error_map : ndarray of shape (R, X, Y, Z)
        The student's Ê, in [−1, 1]: what its refiner adds to or subtracts from the coarse probability.
    teacher_error_map : ndarray of shape (R, X, Y, Z), or None
        The teacher's Ê; None if the run has no teacher.
    dice : dict of str to float
        Mean Dice over regions on the whole volume, by mask (``coarse``, ``refined``).
    """

    site: str
    case: str
    modality: str
    regions: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    image: NDArray[np.floating]
    truth: NDArray[np.bool_]
    coarse: NDArray[np.bool_]
    refined: NDArray[np.bool_]
    error_map: NDArray[np.floating]
    teacher_error_map: NDArray[np.floating] | None
    dice: dict[str, float]

    @property
    def centre(self) -> tuple[int, int, int]:
        """Indices of the sagittal, coronal and axial slices with the most true voxels, or else of the middle slices."""
        shown = self.truth.any(0)
        if not shown.any():
            return shown.shape[0] // 2, shown.shape[1] // 2, shown.shape[2] // 2
        x, y, z = (int(shown.sum(others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
        return x, y, z


def large_before_small(examples: Sequence[Example]) -> list[int]:
    """Return the regions' indices, largest truth first, so that a region inside another is painted after it."""
    sizes = np.sum([example.truth.sum((1, 2, 3)) for example in examples], axis=0)
    return [int(place) for place in np.argsort(-sizes, kind="stable")] if examples else []
