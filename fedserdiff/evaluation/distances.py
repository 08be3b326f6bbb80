"""Distances from voxels to the nearest voxels of another set, at a cost that depends on bounding boxes, not on shapes.

A nearest-neighbour tree is slow if the two sets are far apart or fill a volume. A distance transform of the whole
volume computes every voxel, although surfaces have few (measured: docs/explanation/performance.md).
"""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import bounding_box

_DENSE = 4  # with this many times fewer columns, selecting them is faster than computing all (measured)


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask of shape (X, Y, Z) that share a face with a voxel outside the mask.

    Everything beyond the array is outside the mask.
    """
    inside = mask.copy()
    for axis in range(3):
        along, whole = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        along[1:] &= whole[:-1]
        along[:-1] &= whole[1:]
        along[[0, -1]] = False
    return mask & ~inside


def grown(mask: NDArray[np.bool_], offsets: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return the union of a mask (X, Y, Z) shifted by each of `offsets`, (N, 3) in voxels.

    Voxels shifted out of the array are lost. Whole masks are shifted, so the cost does not depend on their content.
    """
    reached = np.zeros_like(mask)
    for offset in offsets:
        pairs = [
            (slice(max(0, by), n + min(0, by)), slice(max(0, -by), n + min(0, -by)))
            for by, n in zip(offset, mask.shape, strict=True)
        ]
        if all(to.stop > to.start for to, _ in pairs):
            to, of = zip(*pairs, strict=True)
            reached[to] |= mask[of]
    return reached


def distances(asked: NDArray[np.bool_], nearest: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the distance in mm of each voxel of `asked` to the nearest voxel of `nearest`, from centre to centre.

    This is the exact transform, axis by axis: the smallest squared distance within a line, then a plane, then the
    volume (Saito and Toriwaki, Pattern Recognition 27(11), 1994). Only the lines and planes between `asked` and
    `nearest` are computed.

    Parameters
    ----------
    asked, nearest : ndarray of shape (X, Y, Z)
        Masks with at least one voxel each.
    spacing_mm : sequence of float
        Voxel size in mm. If it is the same along all axes, squared distances in voxels are integers, exact in float32.

    Returns
    -------
    ndarray of shape (voxels of `asked`,)
        In the order of ``np.argwhere(asked)``.
    """
    to, of = bounding_box(asked), bounding_box(nearest)
    cubes = len(set(spacing_mm)) == 1
    kind: type[np.floating[Any]] = np.float32 if cubes else np.float64
    steps = np.ones(3) if cubes else np.array(spacing_mm, np.float64)
    count = int(asked.sum())

    def cost(order: tuple[int, ...]) -> int:
        first, second, third = order
        planes = _size(to[first]) * _size(to[second]) * _size(of[second])
        return (planes + count) * _size(of[third])

    first, second, third = min(permutations(range(3)), key=cost)
    lines = _along_lines(nearest[of].transpose(second, first, third), of[first], to[first], kind)
    lines = (lines * steps[first].astype(kind)) ** 2
    planes = _least(lines.reshape(len(lines), -1), _squares(to[second], of[second], steps[second]).astype(kind))
    planes = np.ascontiguousarray(planes.reshape(-1, _size(of[third])).T)

    wanted = asked[to]
    squared = np.empty(wanted.shape, kind)
    by_plane = (array.transpose(third, second, first) for array in (squared, wanted))
    away = _squares(to[third], of[third], steps[third]).astype(kind)
    for found, here, far in zip(*by_plane, away, strict=True):
        if _DENSE * np.count_nonzero(here) > here.size:
            found[:] = _least(planes, far[None]).reshape(found.shape)
        else:
            found[here] = _least(planes[:, here.ravel()], far[None])[0]
    return np.sqrt(squared[wanted].astype(np.float64)) * (float(spacing_mm[0]) if cubes else 1.0)


def farthest_at_most(asked: NDArray[np.bool_], nearest: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float:
    """Return an upper bound of `distances` in mm at a small part of their cost; ∞ if there is none.

    It is the largest distance from a voxel of `asked` to one of `nearest` on the same line along the first axis.
    """
    to = bounding_box(asked)
    lines = nearest[:, to[1], to[2]].transpose(1, 0, 2)
    away = _along_lines(lines, slice(0, len(nearest)), to[0], np.float32).transpose(1, 0, 2)
    return float(away[asked[to]].max()) * spacing_mm[0]


def _size(span: slice) -> int:
    return int(span.stop - span.start)


def _squares(to: slice, of: slice, step_mm: float) -> NDArray[np.float64]:
    """Return the squared distances between two ranges of positions on an axis."""
    away = np.arange(to.start, to.stop)[:, None] - np.arange(of.start, of.stop)
    return np.asarray((away * step_mm) ** 2)


def _along_lines(voxels: NDArray[np.bool_], of: slice, to: slice, kind: type[np.floating[Any]]) -> NDArray[Any]:
    """Return the distance in voxels to the nearest voxel on each line, ∞ if the line has none.

    Lines run along the middle axis. The voxels are at positions `of`, and distances are returned at positions `to`.
    """
    start, stop = min(to.start, of.start), max(to.stop, of.stop)
    away = np.full((voxels.shape[0], stop - start, voxels.shape[2]), np.inf, kind)
    away[:, of.start - start : of.stop - start][voxels] = 0
    for here in range(1, stop - start):
        np.minimum(away[:, here], away[:, here - 1] + 1, out=away[:, here])
    for here in range(stop - start - 2, -1, -1):
        np.minimum(away[:, here], away[:, here + 1] + 1, out=away[:, here])
    return away[:, to.start - start : to.stop - start]


def _least(squared: NDArray[Any], away: NDArray[Any]) -> NDArray[Any]:
    """Return the minimum over `of` of the sums of `away`, (to, of), and `squared`, (of, columns): (to, columns)."""
    least = np.full((len(away), squared.shape[1]), np.inf, squared.dtype)
    through = np.empty_like(squared[0])
    for row, far in zip(least, away, strict=True):
        for near, more in zip(squared, far, strict=True):
            np.add(near, more, out=through)  # a row fits into the core's cache
            np.minimum(row, through, out=row)
    return least
