"""The measures of a mask in a hospital's table, compared with MONAI, SciPy and counts by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice, get_confusion_matrix
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.evaluation.areas import area_hd95
from fedserdiff.evaluation.distances import grown
from fedserdiff.evaluation.lesions import lesion_overlap, lesion_scores
from fedserdiff.evaluation.measures import MEASURES, measure
from fedserdiff.evaluation.segmentation import hd95, nsd

Mask = NDArray[np.bool_]
SHAPE = (26, 31, 22)
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.9375, 0.9375, 1.2), (0.5, 0.5, 3.0), (0.6, 0.8, 1.0)]
EMPTY = np.zeros(SHAPE, bool)


def of_all_kinds() -> dict[str, Mask]:
    rng = np.random.default_rng(7)
    true, one = np.zeros((2, *SHAPE), bool)
    true[8:17, 10:22, 6:15], one[25, 0, 21] = True, True
    return {
        "the truth": true,
        "moved by one": np.roll(true, 1, 2),
        "moved": np.roll(true, (2, -3, 1), (0, 1, 2)),
        "some voxels": rng.random(SHAPE) < 0.002,
        "half of all": rng.random(SHAPE) < 0.5,
        "torn": true & (rng.random(SHAPE) < 0.9),
        "one voxel": one,
        "everything": np.ones(SHAPE, bool),
    }


KINDS = of_all_kinds()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI deprecates an argument that it passes to itself
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", KINDS)
def test_nsd_is_monais(name: str, spacing: tuple[float, float, float]) -> None:
    for true in (KINDS["the truth"], KINDS["torn"]):
        masks = [torch.from_numpy(mask)[None, None] for mask in (KINDS[name], true)]
        expected = compute_surface_dice(*masks, [1.0], include_background=True, spacing=list(spacing))
        assert nsd(KINDS[name], true, spacing) == pytest.approx(float(expected), abs=1e-6)


def test_a_shift_of_1_mm_costs_no_nsd_and_one_of_2_mm_does() -> None:
    truth = KINDS["the truth"]
    assert nsd(np.roll(truth, 1, 0), truth, (1, 1, 1)) == 1
    assert nsd(np.roll(truth, 1, 0), truth, (2, 1, 1)) < 0.9
    assert nsd(np.roll(truth, 2, 0), truth, (1, 1, 1)) < 0.9
    assert nsd(np.roll(truth, 2, 0), truth, (1, 1, 1), within_mm=2) == 1


@pytest.mark.parametrize("name", KINDS)
def test_counts_are_monais_over_the_whole_scan(name: str) -> None:
    """Though only a box of the scan is at hand, beyond which nothing is true and nothing predicted."""
    truth, prediction = KINDS["the truth"], KINDS[name]
    whole = tuple(n + 10 for n in SHAPE)
    found = measure(prediction, truth, (1.0, 2.0, 0.5), whole)
    padded = [np.pad(mask, 5)[None, None] for mask in (prediction, truth)]
    tp, fp, tn, fn = get_confusion_matrix(*(torch.from_numpy(one).float() for one in padded))[0, 0].double().tolist()
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn))
    assert found["specificity"] == pytest.approx(tn / (tn + fp))
    assert found["dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert found["truth_ml"] == pytest.approx((tp + fn) / 1000)
    assert found["predicted_ml"] == pytest.approx((tp + fp) / 1000)
    assert found["difference_ml"] == pytest.approx((fp - fn) / 1000)


def test_scores_where_nothing_is_there_to_be_found() -> None:
    some = KINDS["one voxel"]
    one_ml, spacing = 0.001, (1.0, 1.0, 1.0)
    nothing = dict.fromkeys(("truth_ml", "predicted_ml", "difference_ml"), 0.0)
    counts = dict.fromkeys(("lesions_found", "lesions_missed", "lesions_spurious"), 0)
    perfect = dict.fromkeys(("dice", "sensitivity", "specificity", "nsd", "lesion_dice"), 1.0)
    assert measure(EMPTY, EMPTY, spacing, (300, 400, 0)) == {**perfect, **nothing, **counts, "hd95": 0.0}
    made_up = measure(some, EMPTY, spacing, (26, 31, 22))
    assert [made_up[name] for name in ("dice", "sensitivity", "nsd", "lesion_dice")] == [0, 0, 0, 0]
    assert made_up["specificity"] == 1 - 1 / (26 * 31 * 22)
    assert made_up["hd95"] == pytest.approx((26**2 + 31**2 + 22**2) ** 0.5)
    assert (made_up["difference_ml"], made_up["lesions_spurious"]) == (one_ml, 1)
    missed = measure(EMPTY, some, spacing, (26, 31, 22))
    assert [missed[name] for name in ("dice", "sensitivity", "nsd", "specificity")] == [0, 0, 0, 1]
    assert (missed["difference_ml"], missed["lesions_missed"]) == (-one_ml, 0), "too small a lesion to count"
    assert measure(some, np.ones(SHAPE, bool), spacing, SHAPE)["specificity"] == 1, "there is nothing outside"
    for of in (made_up, missed):
        assert tuple(of) == MEASURES
        assert all(np.isfinite(value) for value in of.values())


@pytest.mark.parametrize("name", KINDS)
def test_lesions_found_without_distances_are_those_found_with_them(name: str) -> None:
    lesions = KINDS["the truth"] | np.roll(KINDS["the truth"], (12, 0, 0), (0, 1, 2)) | KINDS["one voxel"]
    for truth in (lesions, EMPTY):
        overlap, scores = (of(KINDS[name], truth, (1, 1, 1), 1, 2.0) for of in (lesion_overlap, lesion_scores))
        assert (overlap.dice, overlap.found, overlap.missed, overlap.spurious) == (
            scores.dice, scores.found, scores.missed, scores.spurious,
        )  # fmt: skip


@pytest.mark.parametrize("structure", [ndimage.generate_binary_structure(3, k) for k in (1, 2, 3)])
def test_growing_is_scipys_dilation(structure: Mask) -> None:
    mask = KINDS["torn"] | KINDS["one voxel"]
    assert np.array_equal(grown(mask, np.argwhere(structure) - 1), ndimage.binary_dilation(mask, structure))


def test_what_grows_beyond_the_array_is_lost() -> None:
    mask = np.zeros((2, 3, 2), bool)
    mask[1, 2, 1] = True
    assert not grown(mask, np.array([[5, 0, 0], [0, -7, 0]])).any()


@pytest.mark.parametrize("by_area", [False, True])
def test_hd95_is_as_the_organisers_measure_it_where_asked(by_area: bool) -> None:
    """Whose program gave 374 mm where a mask is empty, and weighs a surface by its area (see `test_lesions`)."""
    truth, moved = KINDS["the truth"], KINDS["one voxel"] | KINDS["moved"]
    spacing = (1.0, 1.0, 2.5)
    of: dict[bool, Callable[..., Any]] = {
        False: lambda *m: hd95(*m, spacing, 99.0),
        True: lambda *m: area_hd95(*m, spacing),
    }
    assert measure(moved, truth, spacing, SHAPE, by_area)["hd95"] == of[by_area](moved, truth)
    assert of[True](moved, truth) != of[False](moved, truth)
    assert measure(EMPTY, EMPTY, spacing, SHAPE, by_area)["hd95"] == 0
    for pair in ((truth, EMPTY), (EMPTY, truth)):
        diagonal = (26**2 + 31**2 + 55**2) ** 0.5
        assert measure(*pair, spacing, SHAPE, by_area)["hd95"] == pytest.approx(374 if by_area else diagonal)
