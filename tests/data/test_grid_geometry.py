"""A brain on the working grid, compared with closed forms: shape, size and finest detail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import Geometry, prepare_case
from fedserdiff.data.releases import RELEASES

Sides = tuple[float, float, float]
Shape = tuple[int, int, int]
_LESION = np.array([27.0, 40.0, 33.0])  # semi-axes in mm


def _ellipsoid(semi_axes: NDArray[np.float64], spacing_mm: Sides, shape: Shape) -> NDArray[np.bool_]:
    """Return a mask of an ellipsoid about the middle of a volume."""
    inside = np.zeros(shape)
    for axis, (n, mm, semi) in enumerate(zip(shape, spacing_mm, semi_axes, strict=True)):
        at = (np.arange(n) - (n - 1) / 2) * mm / semi
        inside += np.expand_dims(at**2, tuple({0, 1, 2} - {axis}))
    return inside <= 1


@pytest.mark.parametrize(
    ("spacing_mm", "grid"),
    [((1.0, 1.0, 1.0), (16, 32, 32)), ((1.0, 1.0, 1.0), (32, 20, 32)), ((0.8, 0.8, 2.4), (32, 32, 14)),
     ((1.0, 1.5, 2.0), (16, 20, 14)), ((3.0, 1.0, 1.0), (14, 32, 32))],
)  # fmt: skip
def test_a_brain_too_large_along_any_axis_keeps_its_shape_and_its_size(
    spacing_mm: Sides, grid: Shape, tmp_path: Path, write_case: Callable[..., Path]
) -> None:
    x, y, z = (int(2 * 1.25 * semi / mm) for semi, mm in zip(_LESION, spacing_mm, strict=True))
    brain, lesion = (_ellipsoid(factor * _LESION, spacing_mm, (x, y, z)) for factor in (1.2, 1.0))
    draw = np.random.default_rng(0)
    volumes: dict[str, Any] = {name: brain * draw.integers(1, 100, brain.shape) for name in ("t1", "t1ce", "t2")}
    volumes = {name: volume.astype(np.int16) for name, volume in (volumes | {"flair": volumes["t1"]}).items()}
    write_case(tmp_path, volumes | {"seg": 2 * lesion.astype(np.uint8)}, spacing_mm=spacing_mm)
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])

    prepared = prepare_case(case, grid, 3.0)

    voxel = np.array(prepared.geometry.grid_spacing_mm)
    assert voxel.min() > 3.05  # it did not fit
    assert max(prepared.geometry.inner_shape[n] / grid[n] for n in range(3)) == 1  # and is no coarser than it has to be
    # sides are whole voxels: each axis' voxel is off by half of one in all of its own at most
    assert voxel.max() / voxel.min() < 1 + 1 / min(prepared.geometry.inner_shape)
    filled = np.argwhere(prepared.mask[1])
    # an ellipsoid's variance along an axis is a fifth of the semi-axis squared; voxels add a twelfth of their own size
    semi_axes = np.sqrt(5 * (filled.var(0) - 1 / 12)) * voxel
    np.testing.assert_allclose(semi_axes, _LESION, rtol=0.02)
    assert len(filled) * voxel.prod() == pytest.approx(4 / 3 * np.pi * _LESION.prod(), rel=0.03)
    # in voxels, too, which is what a network sees: a brain is as long for its width as it is
    in_voxels = semi_axes / voxel
    np.testing.assert_allclose(in_voxels / in_voxels[0], _LESION / _LESION[0], rtol=1 / min(grid))


def test_a_brain_that_fits_is_sampled_at_the_spacing_asked_for_whatever_room_is_left(
    tmp_path: Path, draw_volumes: Callable[..., Any], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path, draw_volumes())  # a brain of 8 × 11 × 6 mm
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])

    geometry = prepare_case(case, (8, 64, 6), 1.0).geometry

    assert geometry.inner_shape == geometry.box_shape == (8, 11, 6)
    assert geometry.pad_before == (0, 26, 0)


def test_tall_brain_is_shrunk_never_cut(
    tmp_path: Path, draw_volumes: Callable[..., Any], write_case: Callable[..., Path]
) -> None:
    volumes = draw_volumes()
    volumes["seg"][2, 1, 2] = volumes["seg"][9, 11, 7] = 2  # opposite corners of the brain
    write_case(tmp_path, volumes)
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])

    prepared = prepare_case(case, (16, 8, 4), 1.0)

    geometry = prepared.geometry
    assert geometry.box_shape == (8, 11, 6)
    assert geometry.inner_shape == (5, 7, 4)  # all by 6/4, which the third axis needs
    assert geometry.pad_before == (5, 0, 0)
    back = geometry.to_scan(geometry.from_box(torch.from_numpy(prepared.truth).float(), (16, 8, 4)))
    assert back[1, 0, 0, 0] > 0
    assert back[1, -1, -1, -1] > 0


@pytest.mark.parametrize("period", [2, 2.5, 4, 5, 7.5, 20])
@pytest.mark.parametrize(
    ("box_shape", "inner", "axis"),
    [((100, 60, 15), (20, 12, 18), 0),  # 0.6 × 0.6 × 3.6 mm to 3 mm: the third axis grows
     ((60, 100, 15), (12, 20, 18), 1), ((15, 60, 100), (18, 12, 20), 2), ((100, 60, 30), (20, 12, 6), 0)],
)  # fmt: skip
def test_stripes_keep_the_contrast_that_the_mean_over_a_voxel_leaves_them(
    box_shape: Shape, inner: Shape, axis: int, period: float
) -> None:
    along = np.cos(2 * np.pi * (np.arange(box_shape[axis]) + 0.25) / period)
    stripes = np.broadcast_to(np.expand_dims(along, tuple({0, 1, 2} - {axis})), box_shape)
    geometry = Geometry(box_shape, (1.0, 1.0, 1.0), (0, 0, 0), box_shape, inner, (0, 0, 0))

    on_grid = geometry.from_box(torch.from_numpy(stripes.copy())[None], inner)[0].numpy()

    # the mean of n samples of a cosine is the cosine at their middle times sin(n w / 2) / (n sin(w / 2))
    n, w = box_shape[axis] // inner[axis], 2 * np.pi / period
    kept = np.sin(n * w / 2) / (n * np.sin(w / 2))
    middles = n * np.arange(inner[axis]) + (n - 1) / 2 + 0.25
    expected = np.expand_dims(kept * np.cos(w * middles), tuple({0, 1, 2} - {axis}))
    np.testing.assert_allclose(on_grid, np.broadcast_to(expected, inner), atol=1e-4)
    if period == 2.5:
        assert np.abs(on_grid).max() < 1e-4  # two periods a voxel leave nothing
