"""Spatial augmentations, compared with rot90, areas, SciPy's resampling and a map of the whole image."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedserdiff.augmentation.batch import Parameters, apply
from fedserdiff.augmentation.movement import Movement, control_points, follow, move, rotation

ALL = torch.arange


def turned(*degrees: float) -> torch.Tensor:
    return rotation(torch.tensor([[math.radians(angle) for angle in degrees]]))


def test_a_right_angle_is_rot90() -> None:
    slices = torch.randn(2, 3, 12, 12)
    half_moved = Movement(torch.tensor([1]), turned(90))
    moved = follow(slices, half_moved)
    torch.testing.assert_close(moved[1], slices[1].rot90(1, (1, 2)), atol=1e-5, rtol=0)
    assert torch.equal(moved[0], slices[0])


@pytest.mark.parametrize(("degrees", "plane"), [((90, 0, 0), (1, 2)), ((0, 90, 0), (1, 3)), ((0, 0, 90), (2, 3))])
def test_a_right_angle_is_rot90_in_each_plane_of_a_volume(degrees: tuple[float, ...], plane: tuple[int, int]) -> None:
    volume = torch.randn(1, 2, 10, 10, 10)
    moved = move(volume, Movement(ALL(1), turned(*degrees)))
    torch.testing.assert_close(moved[0], volume[0].rot90(1, plane), atol=1e-5, rtol=0)


def disc(*grid: int, radius: float) -> torch.Tensor:
    axes = [torch.arange(n) - (n - 1) / 2 for n in grid]
    places = torch.meshgrid(*axes, indexing="ij")
    return (torch.stack([axis.square() for axis in places]).sum(0) < radius**2).float()


@pytest.mark.parametrize("grid", [(48, 64), (32, 40, 24)])
@pytest.mark.parametrize("larger", [0.7, 1.4])
def test_what_is_scaled_has_the_area_and_stays_about_the_centre(grid: tuple[int, ...], larger: float) -> None:
    dims = len(grid)
    before = disc(*grid, radius=min(grid) / 3)
    after = move(before[None, None], Movement(ALL(1), torch.eye(dims)[None] / larger))[0, 0] >= 0.5
    assert float(after.sum() / before.sum()) == pytest.approx(larger**dims, rel=0.05)
    centre = torch.nonzero(after).float().mean(0)
    torch.testing.assert_close(centre, torch.tensor([(n - 1) / 2 for n in grid]), atol=0.05, rtol=0)


@pytest.mark.parametrize("grid", [(20, 28), (16, 12, 20)])
def test_rotation_scale_and_deformation_are_one_linear_resampling(grid: tuple[int, ...]) -> None:
    """SciPy resamples at the same places, which come from its own cubic B-splines."""
    dims, draws = len(grid), torch.Generator().manual_seed(1)
    values = torch.randn(1, 1, *grid, generator=draws)
    matrix = turned(25.0) if dims == 2 else turned(25.0, -10.0, 5.0)
    points = [control_points(n, 6.0) for n in grid]
    shifts = 2.4 * (2 * torch.rand(1, dims, *points, generator=draws) - 1)
    moved = move(values, Movement(ALL(1), matrix / 1.2, shifts))[0, 0]

    places = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in grid], indexing="ij"))
    among = np.meshgrid(*[(np.arange(n) + 0.5) * (m - 3) / n + 1 for n, m in zip(grid, points, strict=True)],
                        indexing="ij")  # fmt: skip
    bent = np.stack(
        [ndimage.map_coordinates(one.double().numpy(), among, order=3, prefilter=False) for one in shifts[0]]
    )
    shown = np.einsum("ij,j...->i...", (matrix[0] / 1.2).double().numpy(), places) + bent
    centred = shown + np.array([(n - 1) / 2 for n in grid]).reshape(-1, *[1] * dims)
    expected = ndimage.map_coordinates(values[0, 0].double().numpy(), centred, order=1, mode="grid-constant")
    np.testing.assert_allclose(moved.numpy(), expected, atol=2e-5)
    assert np.abs(bent).max() > 1


@pytest.mark.parametrize("grid", [(40, 48), (24, 28, 32)])
def test_the_strongest_deformation_that_settings_allow_folds_nothing(grid: tuple[int, ...]) -> None:
    """Where neighbours keep their order: the Jacobian is positive, by finite differences of the places shown."""
    dims, draws = len(grid), torch.Generator().manual_seed(2)
    points = [control_points(n, 8.0) for n in grid]
    signs = torch.randint(0, 2, (20, dims, *points), generator=draws) * 2.0 - 1
    here = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in grid], indexing="ij"))
    still = Movement(ALL(20), torch.eye(dims).expand(20, dims, dims), 0.4 * 8.0 * signs)
    shown = move(here.expand(20, *here.shape).contiguous(), still)
    inner = shown[(slice(None), slice(None), *[slice(5, -5)] * dims)]
    slopes = torch.stack(torch.gradient(inner, dim=tuple(range(2, dims + 2))), -1)
    jacobian = torch.linalg.det(slopes.movedim(1, -2))
    assert float(jacobian.min()) > 0
    assert float(jacobian.max()) > 1.2


@pytest.mark.parametrize("grid", [(32, 40), (24, 20, 28)])
def test_masks_follow_the_image_stay_binary_and_nothing_is_outside_of_the_brain(grid: tuple[int, ...]) -> None:
    dims = len(grid)
    brain = disc(*grid, radius=9)
    core = torch.roll(disc(*grid, radius=3), 4, 0)
    image = torch.stack([brain * (1 + 5 * core), -2 * brain])[None]
    matrix = (turned(40.0) if dims == 2 else turned(40.0, 20.0, -15.0)) / 1.1
    moved, truth = apply(image, core[None, None], Parameters(Movement(ALL(1), matrix)))
    assert set(truth.unique().tolist()) == {0.0, 1.0}
    assert moved.dtype == truth.dtype == torch.float32
    inside = (moved != 0).any(1)[0]
    torch.testing.assert_close(moved[0, 1][inside], torch.full_like(moved[0, 1][inside], -2), atol=1e-4, rtol=0)
    assert torch.equal(inside, move(brain[None, None], Movement(ALL(1), matrix))[0, 0] >= 0.5)
    bright = torch.nonzero(moved[0, 0] > 3.5).float().mean(0)
    torch.testing.assert_close(torch.nonzero(truth[0, 0]).float().mean(0), bright, atol=0.3, rtol=0)
    apart = torch.tensor([(n - 1) / 2 for n in grid])
    expected = torch.linalg.solve(matrix[0], torch.nonzero(core).float().mean(0) - apart) + apart
    torch.testing.assert_close(bright, expected, atol=0.3, rtol=0)


def test_a_matrix_turns_the_way_that_numpy_says() -> None:
    angles = torch.tensor([[0.3, -0.2, 0.5]])
    cos, sin = np.cos(angles[0].numpy()), np.sin(angles[0].numpy())
    xy: Any = np.array([[cos[0], sin[0], 0], [-sin[0], cos[0], 0], [0, 0, 1]])
    xz: Any = np.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    yz: Any = np.array([[1, 0, 0], [0, cos[2], sin[2]], [0, -sin[2], cos[2]]])
    np.testing.assert_allclose(rotation(angles)[0].numpy(), xy @ xz @ yz, atol=1e-6)
