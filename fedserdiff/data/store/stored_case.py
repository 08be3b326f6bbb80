"""A prepared case that stays on disk: its index entry answers what it can, its voxels are read when asked for."""

import dataclasses
import math
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.preprocess import Geometry, PreparedCase
from fedserdiff.errors import StorageError, reason_of

_MOST_OPEN = 16
_ALIGNED = 64
_LARGEST_READ = 2**30  # the system reads no more than 2 GiB at once


@dataclass(frozen=True)
class Entry:
    """What the index knows of a case.

    Attributes
    ----------
    at : int
        Where its bytes begin in its file: the image in the brain's box on the grid, float16, then the box's labels,
        then the scored box's, deflated. Slice lies after slice: training in 2D reads some of many volumes.
    size, truth_size : int
        Bytes of all, and of the last of them.
    check : int
        CRC-32 of all.
    grid : tuple of int
    modalities, regions : int
        Their numbers.
    geometry : Geometry
    voxel_hash : str
        As `PreparedCase` has them.
    brain, tumour : tuple of int
        The axial slices of the grid that show some.
    region_voxels : tuple of int
        Of each region on the grid, and of all of them together.
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
        """Read what `dataclasses.asdict` makes of one, through JSON.

        Raises
        ------
        ValueError
            Where it is no entry, or does not fit itself.
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
            raise ValueError("does not fit itself")
        return entry

    @property
    def label_type(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Of a label map, a bit a region."""
        return np.dtype(np.uint8 if self.regions <= 8 else np.uint32)

    @property
    def image_size(self) -> int:
        """Bytes of the image."""
        return 2 * self.modalities * math.prod(self.geometry.inner_shape)

    @property
    def mask_size(self) -> int:
        """Bytes of the label map on the grid."""
        return self.label_type.itemsize * math.prod(self.geometry.inner_shape)


def _numbers(values: Any, count: int | None = None) -> Any:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise TypeError("a list of numbers")
    if not all(isinstance(value, int | float) for value in values):
        raise TypeError("not a number")
    return tuple(values)


def encoded(prepared: PreparedCase) -> tuple[Entry, bytes]:
    """Return the entry, as of the first case of a file, and the bytes of a case."""
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
    """Return masks (regions, X, Y, Z) as one map, a bit a region."""
    labels = np.zeros(masks.shape[1:], entry.label_type)
    for number, mask in enumerate(masks):
        labels |= (mask != 0).astype(entry.label_type) << number
    return labels


def _masks(labels: NDArray[Any], regions: int) -> NDArray[np.uint8]:
    """Return what `_labels` made a map of."""
    masks = np.empty((regions, *labels.shape), np.uint8, order="F")
    for number in range(regions):
        masks[number] = (labels >> number) & 1
    return masks


@dataclass(frozen=True)
class StoredCase(PreparedCase):
    """A case in the store: nothing of its voxels is held, for memory does not hold those of a thousand cases.

    Every one of these raises `StorageError` where the file cannot be read.
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
        return self._on_grid(self._image(0, self.geometry.inner_shape[2]))

    @property
    def mask(self) -> NDArray[np.uint8]:
        return self._on_grid(self._mask(0, self.geometry.inner_shape[2]))

    @property
    def truth(self) -> NDArray[np.uint8]:
        entry, shape = self.entry, self.geometry.scored_shape
        packed = self._read(entry.image_size + entry.mask_size, entry.truth_size)
        try:
            labels = np.frombuffer(zlib.decompress(packed), entry.label_type).reshape(shape, order="F")
        except (zlib.error, ValueError):
            raise StorageError(f"{self.file}: a prepared case is damaged: run with --verify") from None
        return _masks(labels, entry.regions)

    def slices(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        return np.array(self.entry.brain, np.intp), np.array(self.entry.tumour, np.intp)

    def axial(self, z: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        inside = z - self.geometry.pad_before[2]
        first = min(max(inside, 0), self.geometry.inner_shape[2])
        count = int(first == inside < self.geometry.inner_shape[2])
        x, y, _ = self.entry.grid
        parts = self._image(first, count), self._mask(first, count)
        image, mask = (self._padded(part, (len(part), x, y, 1), 0)[..., 0] for part in parts)
        return image, mask

    @property
    def tumour_voxels(self) -> int:
        return self.entry.region_voxels[-1]

    def is_whole(self) -> bool:
        """Say whether the bytes are those that were written."""
        return zlib.crc32(self._read(0, self.entry.size)) == self.entry.check

    def _image(self, first: int, count: int) -> NDArray[np.float16]:
        """Return axial slices of the box, (modalities, x, y, count)."""
        x, y, _ = self.geometry.inner_shape
        one = 2 * self.entry.modalities * x * y
        found = np.frombuffer(self._read(first * one, count * one), np.float16)
        return found.reshape((self.entry.modalities, x, y, count), order="F")

    def _mask(self, first: int, count: int) -> NDArray[np.uint8]:
        x, y, _ = self.geometry.inner_shape
        one = self.entry.label_type.itemsize * x * y
        found = np.frombuffer(self._read(self.entry.image_size + first * one, count * one), self.entry.label_type)
        return _masks(found.reshape((x, y, count), order="F"), self.entry.regions)

    def _on_grid(self, box: NDArray[Any]) -> NDArray[Any]:
        return self._padded(box, (len(box), *self.entry.grid), self.geometry.pad_before[2])

    def _padded(self, box: NDArray[Any], shape: tuple[int, ...], z: int) -> NDArray[Any]:
        whole = np.zeros(shape, box.dtype, order="F")
        x, y, _ = self.geometry.pad_before
        whole[:, x : x + box.shape[1], y : y + box.shape[2], z : z + box.shape[3]] = box
        return whole

    def _read(self, start: int, size: int) -> bytes:
        with reading(self.file):
            opened = _opened(self.file)
            parts, at, end = [], self.entry.at + start, self.entry.at + start + size
            while at < end:
                parts.append(os.pread(opened.fileno(), min(end - at, _LARGEST_READ), at))
                if not parts[-1]:
                    raise StorageError(f"{self.file}: a prepared case is cut off: run this again")
                at += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)


@lru_cache(maxsize=_MOST_OPEN)
def _opened(file: Path) -> BufferedReader:
    """Open a file of cases; who still reads one that is dropped here holds it open for as long."""
    return file.open("rb", buffering=0)  # type: ignore[return-value]


@contextmanager
def reading(what: Path) -> Iterator[None]:
    """Turn what the system refuses while a case is read into a `StorageError` that names it."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: prepared cases cannot be read ({reason_of(error)})") from None
    except MemoryError:
        raise StorageError(f"{what}: prepared cases cannot be read (out of memory)") from None
