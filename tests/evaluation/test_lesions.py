"""Lesion-wise scores, compared with those of the BraTS 2023 organisers' program on the same masks."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.evaluation.lesions import LesionScores, lesion_scores

MM = (1.0, 1.0, 1.0)
SHAPE = (64, 60, 48)
FATES = ["found", "displaced", "missed", "spurious", "torn"]
EMPTY = np.zeros(SHAPE, bool)
Mask = NDArray[np.bool_]


def ball(centre: Sequence[float], radius: float) -> Mask:
    away = [(axis - c) ** 2 for axis, c in zip(np.ogrid[tuple(slice(n) for n in SHAPE)], centre, strict=True)]
    return np.asarray(sum(away) <= radius**2)


def scene(seed: int) -> tuple[Mask, Mask]:
    """A prediction and a truth of many lesions: some well found, some displaced, missed, torn, or spurious."""
    rng = np.random.default_rng(seed)
    truth, prediction = EMPTY.copy(), EMPTY.copy()
    for fate in rng.choice(
        ["found", "displaced", "missed", "spurious", "torn"], size=16, p=[0.4, 0.2, 0.15, 0.15, 0.1]
    ):
        centre, radius = rng.uniform(0, SHAPE), rng.uniform(1, 7)
        off = {"displaced": 0.8 * radius, "torn": 1.0}.get(fate, 0.5)
        if fate != "spurious":
            truth |= ball(centre, radius)
        if fate != "missed":
            prediction |= ball(centre + rng.normal(0, off, 3), radius * rng.uniform(0.7, 1.3))
        if fate == "torn":
            prediction[int(centre[0]) - 1 : int(centre[0]) + 1] = False
    return prediction, truth


# Lesion-wise Dice and HD95 (mm), then lesions found, missed and spurious components, that the organisers' eval.py
# (rachitsaluja/BraTS-2023-Metrics at 0e272e6) gave for scene(seed) as NIfTI files of label 3, as its GLI task
# (dilation 3, more than 50 mm³) and its MET task (1, 2 mm³). VOXELS of both tell other masks from other scores.
VOXELS = {0: (5407, 4740), 2: (3906, 6584), 6: (4929, 6262), 9: (3975, 1843), 11: (2329, 3548)}
OBLONG = (1.5, 1.0, 2.5)
GLI, MET = (3, 50.0), (1, 2.0)
ORGANISERS = [
    (0, MM, GLI, LesionScores(0.3256033, 106.306166, 8, 2, 1)),
    (2, MM, GLI, LesionScores(0.4022158, 53.064403, 7, 1, 0)),
    (6, MM, GLI, LesionScores(0.3364542, 158.025910, 7, 2, 3)),
    (11, MM, GLI, LesionScores(0.4121851, 46.022521, 8, 0, 1)),
    (2, OBLONG, GLI, LesionScores(0.3651880, 53.089219, 8, 1, 0)),
    (9, OBLONG, GLI, LesionScores(0.2866447, 203.129189, 6, 2, 5)),
    (2, MM, MET, LesionScores(0.2750079, 119.396179, 9, 3, 1)),
    (11, MM, MET, LesionScores(0.4206219, 76.597562, 12, 2, 1)),
    (9, OBLONG, MET, LesionScores(0.2615684, 201.260580, 7, 3, 5)),
]


@pytest.mark.parametrize(("seed", "spacing_mm", "task", "expected"), ORGANISERS)
def test_scores_are_those_of_the_organisers_program(
    seed: int, spacing_mm: tuple[float, float, float], task: tuple[int, float], expected: LesionScores
) -> None:
    prediction, truth = scene(seed)
    assert (prediction.sum(), truth.sum()) == VOXELS[seed], "numpy's generator gives other masks than it did"
    scores = lesion_scores(prediction, truth, spacing_mm, *task)
    assert scores.dice == pytest.approx(expected.dice, abs=1e-6)
    assert scores.hd95 == pytest.approx(expected.hd95, abs=1e-5)
    assert (scores.found, scores.missed, scores.spurious) == (expected.found, expected.missed, expected.spurious)


def block(start: tuple[int, int, int], size: tuple[int, int, int]) -> Mask:
    mask = EMPTY.copy()
    mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    assert lesion_scores(EMPTY, EMPTY, MM) == LesionScores(1.0, 0.0, 0, 0, 0)


def test_a_missed_and_a_spurious_lesion_cost_the_same() -> None:
    lesion, speck = block((10, 10, 10), (6, 6, 6)), block((40, 40, 40), (1, 1, 1))
    assert lesion_scores(EMPTY, lesion, MM) == LesionScores(0.0, 374.0, 0, 1, 0)
    assert lesion_scores(speck, EMPTY, MM) == LesionScores(0.0, 374.0, 0, 0, 1), "however small it is"
    assert lesion_scores(lesion | speck, lesion, MM) == LesionScores(0.5, 187.0, 1, 0, 1)


@pytest.mark.parametrize(
    ("size", "mm", "counts"), [((5, 5, 2), 1.0, False), ((5, 5, 2), 1.01, True), ((51, 1, 1), 1.0, True)]
)
def test_a_lesion_counts_above_50_mm3(size: tuple[int, int, int], mm: float, counts: bool) -> None:
    lesion = block((5, 5, 5), size)
    perfect = LesionScores(1.0, 0.0, 0, 0, 0)
    assert lesion_scores(EMPTY, lesion, (mm, 1, 1)) == (LesionScores(0.0, 374.0, 0, 1, 0) if counts else perfect)
    found = lesion_scores(lesion, lesion, (mm, 1, 1))
    assert found == LesionScores(1.0, 0.0, int(counts), 0, 0), "what finds a lesion too small to count is not spurious"


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_parts_of_the_truth_that_touch_when_grown_by_3_voxels_are_one_lesion(gap: int, lesions: int) -> None:
    near, far = block((10, 10, 10), (4, 4, 4)), block((14 + gap, 10, 10), (4, 4, 4))
    scores = lesion_scores(near, near | far, MM)
    assert (scores.found, scores.missed) == (1, lesions - 1)
    assert scores.dice == pytest.approx(2 * 64 / (64 + 128) if lesions == 1 else 0.5)


@pytest.mark.parametrize(("gap", "found"), [(2, 1), (3, 0)])
def test_a_prediction_finds_a_lesion_within_3_voxels(gap: int, found: int) -> None:
    lesion, beside = block((10, 10, 10), (4, 4, 4)), block((14 + gap, 10, 10), (4, 4, 4))
    scores = lesion_scores(beside, lesion, MM)
    assert (scores.found, scores.missed, scores.spurious) == (found, 1 - found, 1 - found)
    assert scores.dice == 0
    assert scores.hd95 == pytest.approx(4 + gap if found else 374)


def test_a_prediction_over_two_lesions_is_held_against_each() -> None:
    one, other = block((5, 10, 10), (4, 4, 4)), block((25, 10, 10), (4, 4, 4))
    over = block((5, 10, 10), (24, 4, 4))
    scores = lesion_scores(over, one | other, MM)
    assert (scores.found, scores.missed, scores.spurious) == (2, 0, 0)
    assert scores.dice == pytest.approx(2 * 64 / (64 + 384))
    assert scores.hd95 == pytest.approx(19, abs=1), "most of its surface is up to 20 mm from either"


def test_parts_of_a_prediction_that_touch_at_a_corner_are_one() -> None:
    lesion, arm = block((10, 10, 10), (4, 4, 4)), block((14, 13, 13), (6, 1, 1))  # the arm ends 6 voxels away
    scores = lesion_scores(lesion | arm | block((20, 14, 14), (3, 3, 3)), lesion, MM)
    assert (scores.found, scores.spurious) == (1, 0)
    assert scores.dice == pytest.approx(2 * 64 / (64 + 97))
    apart = lesion_scores(lesion | arm | block((21, 14, 14), (3, 3, 3)), lesion, MM)
    assert (apart.found, apart.spurious) == (1, 1)
    assert apart.dice == pytest.approx(2 * 64 / (64 + 70) / 2)
