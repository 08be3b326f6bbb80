"""Patches of training items: their position, and the part of a stored box that they show."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase

_MOST_VOXELS = 10_000
"""Largest number of an item's tumour voxels that are kept as centres of patches, as in nnU-Net."""


class Patches:
    """Sampler of patch positions in slices (2D) or volumes (3D): around tumour, or anywhere in the brain's box.

    A place is a number: the index of the patch's first voxel among all possible first voxels.

    Parameters
    ----------
    cases : sequence of CachedCase
    items : sequence of (int, int)
        The case index of each item and, for a slice, its position.
    grid : sequence of int
        Shape of the cases.
    shape : sequence of int
        Shape of the patches: two numbers if items are slices.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        items: Sequence[tuple[int, int]],
        grid: Sequence[int],
        shape: Sequence[int],
    ) -> None:
        self._cases, self._items, self._shape = cases, items, shape
        self._places = tuple(n - own + 1 for n, own in zip(grid, shape, strict=False))
        self._of_tumour: dict[int, NDArray[np.intp]] = {}

    def corner(self, place: int) -> list[int]:
        """Return the first voxel of a patch along each of its axes."""
        return [int(at) for at in np.unravel_index(place, self._places)]

    def draw(self, item: int, about_tumour: bool, generator: torch.Generator) -> int:
        """Draw the place of a patch in an item; with `about_tumour`, the item must show tumour."""
        corner = self._about_tumour(item, generator) if about_tumour else self._anywhere(item, generator)
        return int(np.ravel_multi_index(corner, self._places))

    def _anywhere(self, item: int, generator: torch.Generator) -> list[int]:
        """Draw a patch inside the brain's box; along axes where the box is smaller, the patch contains it."""
        geometry, corner = self._cases[self._items[item][0]].prepared.geometry, []
        axes = zip(geometry.pad_before, geometry.inner_shape, self._shape, self._places, strict=False)
        for before, inner, size, places in axes:
            low, high = (min(max(end, 0), places - 1) for end in sorted((before, before + inner - size)))
            corner.append(int(torch.randint(low, high + 1, (1,), generator=generator)))
        return corner

    def _about_tumour(self, item: int, generator: torch.Generator) -> list[int]:
        """Draw a patch centred on a tumour voxel, shifted into the grid if necessary."""
        voxels = self._voxels_of_tumour(item)
        voxel = voxels[int(torch.randint(0, len(voxels), (1,), generator=generator))]
        axes = zip(voxel, self._shape, self._places, strict=False)
        return [min(max(int(at) - size // 2, 0), places - 1) for at, size, places in axes]

    def _voxels_of_tumour(self, item: int) -> NDArray[np.intp]:
        """Return an item's tumour voxels, (N, 3), subsampled if there are many; they are read only once."""
        if item not in self._of_tumour:
            number, at = self._items[item]
            prepared = self._cases[number].prepared
            tumour = prepared.slices()[1]
            axial = slice(at, at + 1) if len(self._shape) == 2 else slice(tumour[0], tumour[-1] + 1)
            box, _, masks = prepared.boxed(axial)
            found = np.argwhere(masks.any(0)) + [axis.start for axis in box]
            self._of_tumour[item] = found[:: math.ceil(len(found) / _MOST_VOXELS)]
        return self._of_tumour[item]


def shared(
    box: Sequence[slice], first: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the overlap of a box and a window that starts at `first`, as slices of the window and of the box."""
    to, source = [], []
    for axis, start, size in zip(box, first, shape, strict=True):
        low = max(axis.start, start)
        high = max(min(axis.stop, start + size), low)
        to.append(slice(low - start, high - start))
        source.append(slice(low - axis.start, high - axis.start))
    return tuple(to), tuple(source)
