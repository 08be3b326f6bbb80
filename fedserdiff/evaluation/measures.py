"""All metrics of one region in one case, by name."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.areas import area_hd95
from fedserdiff.evaluation.lesions import lesion_overlap
from fedserdiff.evaluation.segmentation import diagonal_mm, dice, hd95, nsd

MEASURES = (
    "dice",
    "hd95",
    "sensitivity",
    "specificity",
    "nsd",
    "truth_ml",
    "predicted_ml",
    "difference_ml",
    "lesion_dice",
    "lesions_found",
    "lesions_missed",
    "lesions_spurious",
)
"""Names of the metrics that `measure` returns, in order."""


def measure(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    shape: Sequence[int],
    by_area: bool = False,
) -> dict[str, float]:
    """Compute all metrics of a region's mask against the truth.

    Parameters
    ----------
    prediction, truth : ndarray of shape (X, Y, Z)
        Masks within a box of the scan outside which both are empty.
    spacing_mm : sequence of float
        Voxel size in mm.
    shape : sequence of int
        Shape of the whole scan in voxels.
    by_area : bool
        Whether HD95 is taken over surface area, as the BraTS 2023 organisers do.

    Returns
    -------
    dict
        By the names of `MEASURES`:

        - dice, hd95 (mm), nsd (at 1 mm): as in `fedserdiff.evaluation.segmentation`, or hd95 as `area_hd95`.
        - sensitivity, specificity: the share of the truth that is predicted, and the share of the *whole scan* outside
          the truth that is not predicted. Both in [0, 1]. The whole scan counts, not the brain, because the organisers'
          programs (GaNDLF and that of BraTS 2023) use all voxels; specificity is therefore always close to 1. If the
          truth is empty, sensitivity is 1 if nothing is predicted and 0 otherwise, as in these programs. If the truth
          fills the scan, specificity is 1.
        - truth_ml, predicted_ml, difference_ml: the two volumes in mL, and the second minus the first.
        - lesion_dice, lesions_found, lesions_missed, lesions_spurious: as in `lesion_overlap`, for glioma.
    """
    if (either := prediction | truth).any():
        held = bounding_box(either)  # once for all metrics
        prediction, truth = prediction[held], truth[held]
    true, predicted = np.count_nonzero(truth), np.count_nonzero(prediction)
    common = np.count_nonzero(truth & prediction)
    outside = int(np.prod(shape)) - true
    ml = float(np.prod(spacing_mm)) / 1000
    lesions = lesion_overlap(prediction, truth, spacing_mm)
    return {
        "dice": dice(prediction, truth),
        "hd95": area_hd95(prediction, truth, spacing_mm)
        if by_area
        else hd95(prediction, truth, spacing_mm, diagonal_mm(shape, spacing_mm)),
        "sensitivity": common / true if true else float(predicted == 0),
        "specificity": 1 - (predicted - common) / outside if outside else 1.0,
        "nsd": nsd(prediction, truth, spacing_mm),
        "truth_ml": true * ml,
        "predicted_ml": predicted * ml,
        "difference_ml": (predicted - true) * ml,
        "lesion_dice": lesions.dice,
        "lesions_found": lesions.found,
        "lesions_missed": lesions.missed,
        "lesions_spurious": lesions.spurious,
    }
