"""Spatial transforms of a batch: rotation, scaling and a smooth deformation, in one resampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class Movement:
    """The spatial transform of some samples of a batch; the others do not move.

    Attributes
    ----------
    rows : Tensor of shape (k,)
        Indices of the samples that move.
    matrix : Tensor of shape (k, d, d)
        Maps a position in the result to the position in the source, both in voxels from the grid's centre.
    shifts : Tensor of shape (k, d, *control points), optional
        Displacement of control points in voxels, with cubic B-splines between them.
    """

    rows: torch.Tensor
    matrix: torch.Tensor
    shifts: torch.Tensor | None = None


def move(values: torch.Tensor, movement: Movement, shape: Sequence[int] | None = None) -> torch.Tensor:
    """Return the moved samples, interpolated linearly; values from outside the grid are 0.

    Rotation, scaling and deformation take one resampling.

    Parameters
    ----------
    values : Tensor of shape (k, C, *grid), float32
        Samples at `movement.rows`, in 2D or 3D.
    movement : Movement
    shape : sequence of int, optional
        Shape of the result around the grid's centre, if it is smaller than the grid.

    Returns
    -------
    Tensor of shape (k, C, *grid), or (k, C, *shape)
    """
    sizes = values.shape[2:] if shape is None else torch.Size(shape)
    axes = [torch.arange(n, device=values.device, dtype=values.dtype) - (n - 1) / 2 for n in sizes]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    shown = (movement.matrix @ places.flatten(1)).unflatten(2, sizes)
    shifts = movement.shifts
    if shifts is not None:
        pairs = zip(sizes, shifts.shape[2:], strict=True)
        shown = shown + along_axes(shifts, [_splines(size, points, shifts) for size, points in pairs])
    # grid_sample takes the last axis first, and half of the grid as 1
    wide = values.shape[2:]
    grid = torch.stack([shown[:, axis] * (2 / wide[axis]) for axis in reversed(range(len(wide)))], -1)
    return functional.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def centre(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the central part (B, C, *shape) of values (B, C, *grid)."""
    for axis, size in enumerate(shape, 2):
        values = values.narrow(axis, (values.shape[axis] - size) // 2, size)
    return values


def follow(values: torch.Tensor, movement: Movement) -> torch.Tensor:
    """Return voxel-wise values (B, C, *grid) of a batch after applying a movement to them."""
    return values.index_copy(0, movement.rows, move(values[movement.rows], movement))


def along_axes(values: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    """Multiply values (N, C, *sizes) by a matrix along each axis: (new size, size), or (N, 1, new size, size)."""
    for axis, matrix in enumerate(matrices, 2):
        last = values.movedim(axis, -1)
        flat = last.flatten(2, -2)
        values = (flat @ matrix.mT).unflatten(2, last.shape[2:-1]).movedim(-1, axis)
    return values


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return rotation matrices around the grid's centre for `Movement.matrix`.

    Parameters
    ----------
    angles : Tensor of shape (B, 1) or (B, 3)
        Angles in radians in the planes (X, Y) and, in 3D, (X, Z) and (Y, Z), in this order; positive from the first
        axis of the plane to the second.

    Returns
    -------
    Tensor of shape (B, 2, 2) or (B, 3, 3)
    """
    planes = [(0, 1)] if angles.shape[1] == 1 else [(0, 1), (0, 2), (1, 2)]
    dims = 2 if len(planes) == 1 else 3
    whole = torch.eye(dims, device=angles.device).expand(len(angles), dims, dims)
    for (a, b), angle in zip(planes, angles.mT, strict=True):
        units = torch.eye(dims, device=angles.device)
        cos, sin = angle.cos().reshape(-1, 1, 1), angle.sin().reshape(-1, 1, 1)
        kept = torch.outer(units[a], units[a]) + torch.outer(units[b], units[b])
        turned = torch.outer(units[a], units[b]) - torch.outer(units[b], units[a])
        whole = whole @ (units - kept + cos * kept + sin * turned)
    return whole


def control_points(size: int, apart: float) -> int:
    """Return the number of control points for cubic B-splines over `size` voxels, at least `apart` voxels apart.

    Closer points could fold the image. If `size` is smaller than `apart`, there is a single interval of that size.
    """
    return max(math.floor(size / apart), 1) + 3


def _splines(size: int, points: int, like: torch.Tensor) -> torch.Tensor:
    """Return the weight of each control point at each voxel, (size, points); rows sum to 1."""
    at = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * ((points - 3) / size) + 1
    far = (at[:, None] - torch.arange(points, device=like.device, dtype=like.dtype)).abs()
    near = 2 / 3 - far.square() + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)
