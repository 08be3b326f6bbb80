"""A scored case to look at: a whole scan, what is true of it, and what a student and a teacher make of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """One scored case on the working grid, in RAS order.

    Attributes
    ----------
    site, case : str
        Whose scan it is, and its name.
    modality : str
        Which of its images `image` is, such as ``FLAIR``.
    regions : tuple of str
        Names of the R regions, in the order of the masks and maps.
    spacing_mm : tuple of float
        Size of a voxel.
    image : ndarray of shape (X, Y, Z)
        The scan, 0 outside the brain.
    truth, coarse, refined : ndarray of shape (R, X, Y, Z), bool
        What is true, and the student's masks.
    error_map : ndarray of shape (R, X, Y, Z)
        The student's Ê, in [−1, 1]: what its refiner adds to the coarse probability, or takes from it.
    teacher_error_map : ndarray of shape (R, X, Y, Z), or None
        The teacher's Ê; None where the run has no teacher.
    dice : dict of str to float
        By mask (``coarse``, ``refined``), the mean of the regions' Dice over the whole volume.
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
        """The sagittal, coronal and axial slice in which most is true; the middle ones where nothing is."""
        shown = self.truth.any(0)
        if not shown.any():
            return shown.shape[0] // 2, shown.shape[1] // 2, shown.shape[2] // 2
        x, y, z = (int(shown.sum(others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
        return x, y, z


def large_before_small(examples: Sequence[Example]) -> list[int]:
    """Return the regions' places by the size of their truth: one that is inside another is painted after it."""
    sizes = np.sum([example.truth.sum((1, 2, 3)) for example in examples], axis=0)
    return [int(place) for place in np.argsort(-sizes, kind="stable")] if examples else []
