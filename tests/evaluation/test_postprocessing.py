"""The parts that thresholds remove and the choice of thresholds, compared with brute force on the masks."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.releases import RELEASES, Convention
from fedserdiff.evaluation.postprocessing import CANDIDATES_ML, Thresholds, choose, gains, given_thresholds
from fedserdiff.evaluation.segmentation import dice
from fedserdiff.settings.scoring import Scoring

BRATS = RELEASES["brats2021"]
ORDER = list(BRATS.regions)
TC, WT, ET = (ORDER.index(region) for region in ("tc", "wt", "et"))
PARTS = Convention("parts", ("T2",), {"pz": (1,), "tz": (2,)}, (0, 1, 2))  # regions that lie apart
SHAPE = (24, 26, 20)
VOXEL_ML = 0.01
Masks = NDArray[np.bool_]


def drawn(seed: int, convention: Convention, share: float = 0.004, empty: tuple[int, ...] = ()) -> tuple[Masks, Masks]:
    """A prediction and a truth, as label maps of lumps of many sizes; some labels may be absent in truth."""
    rng = np.random.default_rng(seed)
    maps = []
    for number in range(2):
        labels = np.zeros(SHAPE, np.uint16)
        for label in convention.labels[1:]:
            lumps = ndimage.gaussian_filter(rng.random(SHAPE), rng.uniform(0.8, 2.0))
            if not (number and label in empty):
                labels[lumps > np.quantile(lumps, 1 - rng.uniform(share, 5 * share))] = label
        maps.append(convention.region_masks(labels))
    return maps[0], maps[1]


def only(place: int, ml: float, regions: int) -> Thresholds:
    least = [0.0] * regions
    if place < regions:
        least[place] = ml
    return Thresholds(tuple(least), ml if place == regions else 0.0)


def mean_dice(masks: Masks, truth: Masks) -> float:
    return float(np.mean([dice(mask, true) for mask, true in zip(masks, truth, strict=True)]))


@pytest.mark.parametrize("convention", [BRATS, PARTS])
@pytest.mark.parametrize("seed", range(4))
def test_gains_are_the_dice_of_masks_that_a_threshold_alone_leaves(convention: Convention, seed: int) -> None:
    masks, truth = drawn(seed, convention, empty=(4,) if seed % 2 else ())
    found = gains(masks, truth, convention, VOXEL_ML)
    regions = len(convention.regions)
    assert found.shape == (regions + 1, len(CANDIDATES_ML))
    for place, (number, ml) in product(range(regions + 1), enumerate(CANDIDATES_ML)):
        kept = only(place, ml, regions).apply(masks, convention, VOXEL_ML)
        assert found[place, number] == pytest.approx(mean_dice(kept, truth), abs=1e-12), (place, ml)
    assert len(np.unique(found)) > 2, "some threshold has to do something here"


def test_the_thresholds_chosen_are_the_best_of_each_and_of_equals_the_smallest() -> None:
    cases = [drawn(seed, BRATS, empty=(4,) if seed < 2 else ()) for seed in range(4)]
    chosen = choose([gains(*case, BRATS, VOXEL_ML) for case in cases])
    for place, found in enumerate((*chosen.least_ml, chosen.least_et_ml)):
        by_candidate = {
            ml: np.mean([mean_dice(only(place, ml, 3).apply(m, BRATS, VOXEL_ML), t) for m, t in cases])
            for ml in CANDIDATES_ML
        }
        best = max(by_candidate.values())
        assert by_candidate[found] == pytest.approx(best, abs=1e-12)
        assert all(value < best - 1e-12 for ml, value in by_candidate.items() if ml < found)
    assert chosen != Thresholds((0.0, 0.0, 0.0), 0.0)


def test_nothing_is_removed_where_all_is_right() -> None:
    _, truth = drawn(1, BRATS)
    assert choose([gains(truth, truth, BRATS, VOXEL_ML)]) == Thresholds((0.0, 0.0, 0.0), 0.0)


def block(labels: NDArray[np.uint16], start: tuple[int, int, int], size: int, label: int) -> None:
    labels[tuple(slice(s, s + size) for s in start)] = label


def test_what_is_removed_of_a_region_is_removed_of_those_in_it_and_of_no_other() -> None:
    labels = np.zeros(SHAPE, np.uint16)
    block(labels, (2, 2, 2), 5, 2)  # oedema with a core that has enhancing tumour in it
    block(labels, (3, 3, 3), 3, 1)
    block(labels, (4, 4, 4), 1, 4)
    block(labels, (12, 12, 12), 2, 4)  # 8 voxels of enhancing tumour by themselves
    masks = BRATS.region_masks(labels)

    def left(**least: float) -> list[int]:
        thresholds = Thresholds(tuple(least.get(region, 0.0) for region in ORDER), least.get("rule", 0.0))
        kept = thresholds.apply(masks, BRATS, VOXEL_ML)
        return [int(kept[region].sum()) for region in (WT, TC, ET)]

    assert left() == [133, 35, 9]
    assert left(wt=0.09) == [125, 27, 1], "a lesion that goes takes core and ET along"
    assert left(wt=0.08) == [133, 35, 9], "barely large enough"
    assert left(et=0.05) == [133, 35, 8], "ET that is too small stays tumour core"
    assert left(tc=0.28) == [133, 0, 0], "a core that is too small stays oedema, and has no ET"
    assert left(rule=0.09) == [133, 35, 9]
    assert left(rule=0.1) == [133, 35, 0], "all of it becomes tumour core"


def test_parts_that_touch_at_a_corner_are_one_component() -> None:
    labels = np.zeros(SHAPE, np.uint16)
    block(labels, (2, 2, 2), 2, 1)
    block(labels, (4, 4, 4), 2, 1)
    masks = PARTS.region_masks(labels)
    assert Thresholds((0.16, 0.0), 0.0).apply(masks, PARTS, VOXEL_ML).sum() == 16
    assert not Thresholds((0.161, 0.0), 0.0).apply(masks, PARTS, VOXEL_ML).any()


def test_settings_that_give_no_threshold_change_no_mask() -> None:
    assert given_thresholds(Scoring()) is None
    assert given_thresholds(Scoring(least_ml=(0.0, 0.0, 0.0))) is None
    assert given_thresholds(Scoring(least_ml=(0.0, 0.5, 0.0))) == Thresholds((0.0, 0.5, 0.0), 0.0)
    assert given_thresholds(Scoring(least_et_ml=0.5)) == Thresholds((), 0.5)
