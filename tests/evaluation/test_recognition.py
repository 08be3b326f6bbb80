"""Recognition of hospitals by their scans: what changes a scan's appearance, and how sure a guess is."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.evaluation.recognition import Recogniser, appearance

SHAPE = (4, 12, 12, 12)


def scan(seed: int = 0) -> NDArray[np.float64]:
    """A brain of smooth noise in a ball, 0 outside."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, SHAPE)
    image[1] += 0.5 * image[0]
    ball = np.linalg.norm(np.indices(SHAPE[1:]) - 5.5, axis=0) < 5.5
    return (image + 3) * ball


def test_gain_and_offset_of_a_modality_do_not_change_the_appearance() -> None:
    image = scan()
    other = image.copy()
    brain = (image != 0).any(0)
    other[2, brain] = 40 * image[2, brain] + 700
    assert appearance(other) == pytest.approx(appearance(image), abs=1e-3)


def test_what_it_says_of_a_scan_is_its_histogram_its_correlations_and_its_gradients() -> None:
    image = scan()
    seen, brain = appearance(image), (image != 0).any(0)
    assert seen.shape == (4 * 8 + 6 + 4 + 4,)
    values = image[0, brain]
    quarter, median, high = np.percentile(values, [25, 50, 95])
    spread = np.percentile(values, 75) - quarter
    assert seen[3] == pytest.approx((quarter - median) / spread, abs=1e-4)
    assert seen[6] == pytest.approx((high - median) / spread, abs=1e-4)
    assert seen[32] == pytest.approx(np.corrcoef(image[0, brain], image[1, brain])[0, 1], abs=1e-4)
    assert seen[37] == pytest.approx(np.corrcoef(image[2, brain], image[3, brain])[0, 1], abs=1e-4)


def test_thick_slices_show_in_the_gradient_across_them_alone() -> None:
    thick = scan()
    for start in range(0, 12, 3):
        thick[..., start : start + 3] = thick[..., start : start + 1]
    thin, seen = appearance(scan()), appearance(thick)
    assert (seen[-4:] < thin[-4:] - 0.5).all()


def test_a_scan_without_variation_has_a_finite_appearance() -> None:
    flat = np.zeros(SHAPE)
    flat[:, 3:9, 3:9, 3:9] = 1
    assert np.isfinite(appearance(flat)).all()


def hospitals(counts: dict[str, int], apart: float, seed: int = 0) -> dict[str, list[NDArray[np.float64]]]:
    """Appearances of hospitals that differ by `apart` standard deviations in the first of five numbers."""
    rng = np.random.default_rng(seed)
    return {
        name: [rng.normal(0, 1, 5) + apart * place * np.eye(5)[0] for _ in range(count)]
        for place, (name, count) in enumerate(counts.items())
    }


def test_a_scan_is_recognised_where_hospitals_differ() -> None:
    recogniser = Recogniser(hospitals({"north": 30, "west": 30, "south": 30}, apart=8))
    for place, name in enumerate(("north", "west", "south")):
        found = recogniser.recognise(np.array([8.0 * place, 0, 0, 0, 0]))
        assert (found.nearest, found.sure) == (name, True)
    between = recogniser.recognise(np.array([15.0, 0, 0, 0, 0]))
    assert (between.nearest, between.second) == ("south", "west")


def test_a_scan_between_two_hospitals_is_not_clear_whichever_has_more_scans() -> None:
    recogniser = Recogniser(hospitals({"large": 400, "small": 40}, apart=4))
    found = recogniser.recognise(np.array([2.0, 0, 0, 0, 0]))
    assert not found.sure
    assert found.probability < 0.8, "a hospital with ten times the scans is not ten times as likely"


def test_hospitals_that_do_not_differ_are_not_told_apart() -> None:
    given = hospitals({"north": 200, "west": 200}, apart=0)
    recogniser = Recogniser(given)
    rng = np.random.default_rng(5)
    sure = [recogniser.recognise(rng.normal(0, 1, 5)).sure for _ in range(100)]
    assert not any(sure)


def test_as_many_scans_as_hospitals_are_too_few() -> None:
    with pytest.raises(ValueError, match="number of samples"):
        Recogniser(hospitals({"north": 1, "west": 1}, apart=8))
