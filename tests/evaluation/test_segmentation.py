import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray

from fedserdiff.evaluation.segmentation import diagonal_mm, dice, hd95

EMPTY = np.zeros((6, 7, 8), bool)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Voxels of a mask with a 6-neighbour outside it, by brute force."""
    padded = np.pad(mask, 1)
    points = []
    for x, y, z in np.argwhere(mask):
        around = [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
        if not all(padded[x + dx, y + dy, z + dz] for dx, dy, dz in around):
            points.append((x, y, z))
    return np.array(points)


def brute_hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    """All pairwise surface distances, 95th percentile of each direction's nearest ones, the larger."""
    pa, pb = surface(a) * np.array(spacing), surface(b) * np.array(spacing)
    distances = np.sqrt(((pa[:, None] - pb[None]) ** 2).sum(-1))
    return float(max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95)))


def blob(seed: int, shape: tuple[int, int, int] = (14, 15, 12)) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    centre = rng.uniform(4, 9, 3)[:, None, None, None]
    return np.asarray((((grid - centre) / rng.uniform(2, 4, 3)[:, None, None, None]) ** 2).sum(0) < 1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.5, 0.7)])
def test_scores_equal_a_brute_force_computation(seed: int, spacing: tuple[float, float, float]) -> None:
    a, b = blob(seed), blob(seed + 100)
    assert dice(a, b) == pytest.approx(2 * np.sum(a & b) / (a.sum() + b.sum()))
    assert hd95(a, b, spacing, 999.0) == pytest.approx(brute_hd95(a, b, spacing), rel=1e-6)
    assert hd95(b, a, spacing, 999.0) == pytest.approx(hd95(a, b, spacing, 999.0), rel=1e-6)


def monai_hd95(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    masks = [torch.from_numpy(mask)[None, None] for mask in (a, b)]
    return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(spacing)))


def of_all_kinds() -> dict[str, NDArray[np.bool_]]:
    """Masks as a student gives them: good, bad, torn, a speck, everywhere; some reach the border."""
    shape, rng = (26, 31, 22), np.random.default_rng(7)
    true, one, brain = np.zeros((3, *shape), bool)
    true[8:17, 10:22, 6:15], one[25, 0, 21], brain[1:, 2:29, :20] = True, True, True
    return {
        "the truth": true,
        "moved": np.roll(true, (2, -3, 1), (0, 1, 2)),
        "some voxels": rng.random(shape) < 0.002,
        "half of all": rng.random(shape) < 0.5,
        "torn": true & (rng.random(shape) < 0.9),
        "one voxel": one,
        "the brain": brain,
        "everything": np.ones(shape, bool),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI deprecates an argument that it passes to itself
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (3.0, 1.5, 0.7), (0.9375, 0.9375, 1.2)])
@pytest.mark.parametrize("name", of_all_kinds())
def test_hd95_is_monais(name: str, spacing: tuple[float, float, float]) -> None:
    masks = of_all_kinds()
    for true in (masks["the truth"], masks["torn"]):
        expected = monai_hd95(masks[name], true, spacing)
        assert hd95(masks[name], true, spacing, 999.0) == pytest.approx(expected, rel=0, abs=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hd95_of_very_many_distances_is_monais() -> None:
    """MONAI reckons a percentile's place in float32, which rounds it among 400,000 distances."""
    shape = (96, 100, 88)
    one = np.zeros(shape, bool)
    one[0, 1, 2] = True
    noise = np.random.default_rng(3).random(shape) < 0.5
    assert np.sum(noise) > 400_000
    spacing = (1.0, 1.0, 1.0)
    assert hd95(noise, one, spacing, 999.0) == pytest.approx(monai_hd95(noise, one, spacing), rel=0, abs=1e-6)


def test_both_empty_is_perfect_and_one_empty_is_worst() -> None:
    one = EMPTY.copy()
    one[2, 3, 4] = True
    assert dice(EMPTY, EMPTY) == 1
    assert hd95(EMPTY, EMPTY, (1, 1, 1), 373.0) == 0
    for a, b in ((one, EMPTY), (EMPTY, one)):
        assert dice(a, b) == 0
        assert hd95(a, b, (1, 1, 1), 373.0) == 373.0


def test_a_single_voxel_off_by_two_is_its_distance_in_mm() -> None:
    a, b = EMPTY.copy(), EMPTY.copy()
    a[1, 1, 1], b[3, 1, 1] = True, True
    assert hd95(a, b, (2.5, 1, 1), 99.0) == pytest.approx(5.0)
    assert dice(a, b) == 0
    assert hd95(a, a, (2.5, 1, 1), 99.0) == 0


def test_masks_at_the_volume_border_are_measured_like_any_other() -> None:
    a, b = EMPTY.copy(), EMPTY.copy()
    a[0:2], b[0:4] = True, True
    assert hd95(a, b, (1, 1, 1), 99.0) == pytest.approx(brute_hd95(a, b, (1, 1, 1)))


def test_brats_diagonal() -> None:
    assert diagonal_mm((240, 240, 155), (1, 1, 1)) == pytest.approx(373.13, abs=0.005)
    assert diagonal_mm((3, 4), (1, 1)) == math.hypot(3, 4)
