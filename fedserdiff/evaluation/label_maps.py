"""Scoring of a predicted label map against the truth, both read from files."""

from dataclasses import dataclass
from pathlib import Path

from fedserdiff.data.nifti import read_volume
from fedserdiff.data.preprocess import check_aligned, segmented_regions
from fedserdiff.data.releases import Convention
from fedserdiff.errors import DataError, Faults
from fedserdiff.evaluation.lesions import LesionScores, lesion_scores
from fedserdiff.evaluation.segmentation import diagonal_mm, dice, hd95


@dataclass(frozen=True)
class RegionScores:
    """Scores of one region in one case, overall and lesion-wise.

    Attributes
    ----------
    dice : float
        In [0, 1]; 1 if both masks are empty, 0 if one is.
    hd95 : float
        In mm; 0 if both masks are empty, the volume's diagonal if one is.
    lesions : LesionScores
        Lesion-wise scores of the region.
    """

    dice: float
    hd95: float
    lesions: LesionScores


def score_label_map(prediction: Path, truth: Path, convention: Convention) -> dict[str, RegionScores]:
    """Return the scores of each of the convention's regions.

    Raises
    ------
    DataError
        If a file cannot be read, contains a value that is not a label of the convention, or the two differ in shape or
        position; the text names every faulty file.
    """
    volumes, masks, faults = [], [], Faults(DataError)
    for path in (prediction, truth):
        with faults.caught():
            volumes.append(read_volume(path))
            masks.append(segmented_regions(volumes[-1], convention))
    faults.check()
    given, expected = volumes
    check_aligned(given, expected)
    spacing = expected.spacing_mm
    farthest = diagonal_mm(expected.shape, spacing)
    return {
        region: RegionScores(dice(mask, true), hd95(mask, true, spacing, farthest), lesion_scores(mask, true, spacing))
        for region, mask, true in zip(convention.regions, *masks, strict=True)
    }
