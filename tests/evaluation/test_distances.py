"""Distances between masks, compared with every pair of voxels; docs/explanation says how their cost is bounded."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.preprocess import bounding_box
from fedserdiff.evaluation.distances import distances, farthest_at_most, surface

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (3.0, 1.5, 0.7), (0.9375, 0.9375, 1.2)]
SHAPES = [(9, 11, 13), (13, 2, 7), (1, 12, 9), (1, 1, 15), (1, 1, 1)]
DENSITIES = [0.0, 0.03, 0.5, 1.0]  # from one voxel to all
Mask = NDArray[np.bool_]


def of_density(shape: tuple[int, int, int], density: float, rng: np.random.Generator) -> Mask:
    mask = rng.random(shape) < density
    mask[tuple(rng.integers(0, shape))] = True
    return mask


def of_every_pair(asked: Mask, nearest: Mask, spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    here, there = (np.argwhere(mask) * np.array(spacing) for mask in (asked, nearest))
    return np.asarray(np.sqrt(((here[:, None] - there) ** 2).sum(-1)).min(1))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_the_least_of_every_pair_in_the_order_of_the_voxels(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(0)
    for one in DENSITIES:
        for other in DENSITIES:
            asked, nearest = of_density(shape, one, rng), of_density(shape, other, rng)
            found = distances(asked, nearest, spacing)
            assert found.dtype == np.float64
            assert found.max() <= farthest_at_most(asked, nearest, spacing) + 1e-12
            np.testing.assert_allclose(found, of_every_pair(asked, nearest, spacing), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_masks_in_opposite_corners_are_far_apart(spacing: tuple[float, float, float]) -> None:
    asked, nearest = np.zeros((2, 60, 50, 40), bool)
    asked[:3, :2, :4], nearest[-1, -2:, -3:] = True, True
    np.testing.assert_allclose(
        distances(asked, nearest, spacing), of_every_pair(asked, nearest, spacing), rtol=0, atol=1e-12
    )


def test_the_farthest_is_told_by_lines_along_the_first_axis() -> None:
    asked, nearest = np.zeros((2, 9, 5, 5), bool)
    asked[2:4, 1, 1] = nearest[7, 1, 1] = nearest[1, 2, 1] = True
    assert farthest_at_most(asked, nearest, (2.0, 1.0, 1.0)) == 10.0
    asked[3, 4, 4] = True
    assert farthest_at_most(asked, nearest, (2.0, 1.0, 1.0)) == np.inf, "nothing is on this one's line"


def test_a_surface_is_what_has_a_face_outside() -> None:
    for density in (0.3, 0.8, 0.95, 1.0):
        mask = of_density((7, 8, 9), density, np.random.default_rng(1))
        around = np.pad(mask, 1)
        expected = [
            (x, y, z)
            for x, y, z in np.argwhere(mask)
            if not (
                around[x : x + 3, y + 1, z + 1].all()
                and around[x + 1, y : y + 3, z + 1].all()
                and around[x + 1, y + 1, z : z + 3].all()
            )
        ]
        assert np.argwhere(surface(mask)).tolist() == [list(map(int, place)) for place in expected]
    assert surface(np.ones((1, 1, 1), bool)).all()


def test_the_box_about_a_mask_holds_it_and_no_more() -> None:
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 6] = mask[3, 2, 0] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(0, 7))
    assert bounding_box(np.ones((1, 2, 3), bool)) == (slice(0, 1), slice(0, 2), slice(0, 3))
