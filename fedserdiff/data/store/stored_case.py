"""A prepared case on disk: its index entry is in memory, its voxels are read on demand."""

import dataclasses
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import Box, Geometry, PreparedCase
from fedserdiff.errors import StorageError, reason_of

_MOST_OPEN = 16
_ALIGNED = 64
_WHOLE = slice(None)
_LARGEST_READ = 2**30  # the operating system reads at most 2 GiB at once


@dataclass(frozen=True)
class Entry:
    """The index entry of a case.

    Attributes
    ----------
    at : int
        Offset of its bytes in the file: the image in the brain's box on the grid (float16), the labels in that box, and
        the compressed labels in the scored box. Slices are contiguous, because 2D training reads single slices of many
        volumes.
    size, truth_size : int
        Number of bytes in total, and of the labels in the scored box.
    check : int
        CRC-32 of all bytes.
    grid : tuple of int
        Size of the working grid in voxels.
    modalities, regions : int
        Number of modalities and of regions.
    geometry : Geometry
    voxel_hash : str
        As for `PreparedCase`.
    brain, tumour : tuple of int
        Axial slices of the grid that show brain, and tumour.
    region_voxels : tuple of int
        Number of voxels of each region on the grid, and of their union.
    """

    at: int
    size: int
    truth_size: int
    check: int
    grid: tuple[int, int, int]
    modalities: int
    regions: int
    geometry: Geometry
    voxel_hash: str
    brain: tuple[int, ...]
    tumour: tuple[int, ...]
    region_voxels: tuple[int, ...]

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Return the entry that `dataclasses.asdict` turned into JSON values.

        Raises
        ------
        ValueError
            If the values are not an entry, or contradict each other.
        """
        try:
            geometry = Geometry(**{name: _numbers(value, 3) for name, value in values["geometry"].items()})
            lists = {name: _numbers(values[name]) for name in ("brain", "tumour", "region_voxels")}
            grid = _numbers(values["grid"], 3)
            entry = cls(**{**values, **lists, "grid": grid, "geometry": geometry})
            fits = (
                all(p + n <= whole for p, n, whole in zip(geometry.pad_before, geometry.inner_shape, grid, strict=True))
                and entry.size == entry.image_size + entry.mask_size + entry.truth_size
                and len(entry.region_voxels) == entry.regions + 1
                and {*entry.tumour, *entry.brain} <= set(range(grid[2]))
                and re.fullmatch("[0-9a-f]{64}", entry.voxel_hash)
                and min(entry.at, entry.truth_size, entry.check) >= 0
            )
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if not fits:
            raise ValueError("the values contradict each other")
        return entry

    @property
    def label_type(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Data type of a label map with one bit per region."""
        return label_type(self.regions)

    @property
    def image_size(self) -> int:
        """Size of the image in bytes."""
        return 2 * self.modalities * math.prod(self.geometry.inner_shape)

    @property
    def mask_size(self) -> int:
        """Size of the label map on the grid in bytes."""
        return self.label_type.itemsize * math.prod(self.geometry.inner_shape)


def label_type(regions: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the data type of a label map with one bit for each of `regions` regions."""
    return np.dtype(np.uint8 if regions <= 8 else np.uint32)


def _numbers(values: Any, count: int | None = None) -> Any:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise TypeError("not a list of numbers of this length")
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError("not a number")
    return tuple(values)


def encoded(prepared: PreparedCase) -> tuple[Entry, bytes]:
    """Return the entry of a case, with offset 0, and its bytes."""
    geometry, regions = prepared.geometry, len(prepared.mask)
    box = tuple(slice(p, p + n) for p, n in zip(geometry.pad_before, geometry.inner_shape, strict=True))
    volumes = prepared.mask.reshape(regions, -1).sum(1, dtype=np.int64)
    brain, tumour = prepared.slices()
    entry = Entry(
        at=0, size=0, truth_size=0, check=0, grid=_grid(prepared.image), modalities=len(prepared.image),
        regions=regions, geometry=geometry, voxel_hash=prepared.voxel_hash, brain=tuple(map(int, brain)),
        tumour=tuple(map(int, tumour)), region_voxels=(*volumes.tolist(), int(prepared.mask.any(0).sum())),
    )  # fmt: skip
    truth = zlib.compress(_labels(prepared.truth, entry).tobytes("F"), 1)
    image = prepared.image[(slice(None), *box)].tobytes("F")
    content = b"".join((image, _labels(prepared.mask[(slice(None), *box)], entry).tobytes("F"), truth))
    entry = dataclasses.replace(entry, size=len(content), truth_size=len(truth), check=zlib.crc32(content))
    return entry, content + bytes(-len(content) % _ALIGNED)


def _grid(image: NDArray[Any]) -> tuple[int, int, int]:
    _, x, y, z = image.shape
    return x, y, z


def _labels(masks: NDArray[np.uint8], entry: Entry) -> NDArray[np.unsignedinteger[Any]]:
    """Return masks (regions, X, Y, Z) as one label map with one bit per region."""
    labels = np.zeros(masks.shape[1:], entry.label_type)
    for number, mask in enumerate(masks):
        labels |= (mask != 0).astype(entry.label_type) << number
    return labels


def _masks(labels: NDArray[Any], regions: int) -> NDArray[np.uint8]:
    """Return the masks of a map from `_labels`, with regions fastest in memory; most voxels belong to none."""
    flat = labels.ravel(order="F")
    somewhere = np.flatnonzero(flat)
    masks = np.zeros((flat.size, regions), np.uint8)
    masks[somewhere] = (flat[somewhere, None] >> np.arange(regions, dtype=flat.dtype)) & 1
    return masks.T.reshape((regions, *labels.shape), order="F")


@dataclass(frozen=True)
class StoredCase(PreparedCase):
    """A case in the store. Its voxels are not kept in memory, which could not hold those of a thousand cases.

    All methods that read voxels raise `StorageError` if the file cannot be read.
    """

    file: Path
    entry: Entry

    @property
    def geometry(self) -> Geometry:
        return self.entry.geometry

    @property
    def voxel_hash(self) -> str:
        return self.entry.voxel_hash

    @property
    def image(self) -> NDArray[np.float16]:
        box, image, _ = self.boxed()
        return _padded(image, box, self.entry.grid)

    @property
    def mask(self) -> NDArray[np.uint8]:
        box, _, mask = self.boxed()
        return _padded(mask, box, self.entry.grid)

    @property
    def truth(self) -> NDArray[np.uint8]:
        entry, shape = self.entry, self.geometry.scored_shape
        packed = self._read(entry.image_size + entry.mask_size, entry.truth_size)
        try:
            labels = np.frombuffer(zlib.decompress(packed.data), entry.label_type).reshape(shape, order="F")
        except (zlib.error, ValueError):
            raise StorageError(f"{self.file}: a prepared case is damaged: run `fedserdiff cache verify`") from None
        return _masks(labels, entry.regions)

    def slices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.array(self.entry.brain, np.intp), np.array(self.entry.tumour, np.intp)

    def boxed(self, axial: slice = _WHOLE) -> tuple[Box, NDArray[np.float16], NDArray[np.uint8]]:
        (x, y, depth), before = self.geometry.inner_shape, self.geometry.pad_before
        wanted = axial.indices(self.entry.grid[2])[:2]
        first, last = (min(max(z - before[2], 0), depth) for z in wanted)
        count = max(last - first, 0)
        of_image, of_mask = 2 * self.entry.modalities * x * y, self.entry.label_type.itemsize * x * y
        image = self._read(first * of_image, count * of_image).view(np.float16)
        labels = self._read(self.entry.image_size + first * of_mask, count * of_mask).view(self.entry.label_type)
        masks = _masks(labels.reshape((x, y, count), order="F"), self.entry.regions)
        start = before[2] + first
        box = (slice(before[0], before[0] + x), slice(before[1], before[1] + y), slice(start, start + count))
        return box, image.reshape((self.entry.modalities, x, y, count), order="F"), masks

    @property
    def tumour_voxels(self) -> int:
        return self.entry.region_voxels[-1]

    def is_whole(self) -> bool:
        """Return whether the bytes are the ones that were written."""
        return zlib.crc32(self._read(0, self.entry.size).data) == self.entry.check

    def _read(self, start: int, size: int) -> NDArray[np.uint8]:
        with reading(self.file):
            opened, content, done = _opened(self.file), np.empty(size, np.uint8), 0
            while done < size:
                count = os.preadv(
                    opened.fileno(), [content.data[done : done + _LARGEST_READ]], self.entry.at + start + done
                )
                if not count:
                    raise StorageError(f"{self.file}: a prepared case is truncated: run the command again")
                done += count
        return content


def _padded(part: NDArray[Any], box: Box, grid: tuple[int, int, int]) -> NDArray[Any]:
    whole = np.zeros((len(part), *grid), part.dtype, order="F")
    whole[(slice(None), *box)] = part
    return whole


@lru_cache(maxsize=_MOST_OPEN)
def _opened(file: Path) -> FileIO:
    """Open a file of cases; a reader keeps its file open even after the LRU cache drops it."""
    return file.open("rb", buffering=0)


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Turn operating system errors during reading into a `StorageError` that names the path."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: prepared cases cannot be read ({reason_of(error)})") from None
    except MemoryError:
        raise StorageError(f"{what}: prepared cases cannot be read (out of memory)") from None
