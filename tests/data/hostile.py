"""Good and bad NIfTI files, written byte by byte without the library that reads them, and the expected results."""

import gzip
import math
import signal
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import PreparedCase, prepare_case
from fedserdiff.data.releases import RELEASES

Array = NDArray[Any]
CASE = "BraTS2021_00000"
CHANNELS = ("t1", "t1ce", "t2", "flair", "seg")
GRID = (16, 16, 16)  # holds the tiny volumes at their own 1 mm
DTYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}

# Offset and type of each field, in NIfTI-1 and in NIfTI-2, from the two standards.
FIELDS = {
    "sizeof_hdr": ((0, "i"), (0, "i")),
    "magic": ((344, "4s"), (4, "8s")),
    "dim": ((40, "h"), (16, "q")),
    "datatype": ((70, "h"), (12, "h")),
    "bitpix": ((72, "h"), (14, "h")),
    "pixdim": ((76, "f"), (104, "d")),
    "vox_offset": ((108, "f"), (168, "q")),
    "scl_slope": ((112, "f"), (176, "d")),
    "scl_inter": ((116, "f"), (184, "d")),
    "xyzt_units": ((123, "b"), (500, "i")),
    "qform_code": ((252, "h"), (344, "i")),
    "sform_code": ((254, "h"), (348, "i")),
    "quatern": ((256, "f"), (352, "d")),
    "qoffset": ((268, "f"), (376, "d")),
    "srow": ((280, "f"), (400, "d")),
}


class Hang(BaseException):
    """Reading took longer than it may; no `Exception`, so that nothing on the way swallows it."""


@contextmanager
def watchdog(seconds: float = 20.0) -> Iterator[None]:
    """Break off what hangs: a hundred times what the slowest of these files takes."""

    def bark(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Spec:
    """How a volume given in RAS order is stored."""

    dtype: str = "i2"
    order: str = "<"
    version: int = 1
    axes: str = "LPS"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turned: tuple[float, float, float] = (0.0, 0.0, 0.0)
    origin: tuple[float, float, float] = (-90.0, 126.0, -72.0)
    form: str = "sform"
    slope: float = 1.0
    inter: float = 0.0
    units: int = 2
    extension: bytes = b""
    dims_of_one: int = 0
    fields: Mapping[tuple[str, int], Any] = field(default_factory=dict)
    """Header fields to overwrite in the finished file, by name and index."""


def patch(raw: bytes, spec: Spec, name: str, value: Any, index: int = 0) -> bytes:
    """Overwrite one header field of a file that is not compressed."""
    offset, kind = FIELDS[name][spec.version - 1]
    packed = struct.pack(spec.order + kind, value)
    offset += index * len(packed)
    return raw[:offset] + packed + raw[offset + len(packed) :]


def encode(voxels: Array, spec: Spec) -> bytes:
    """Return the bytes of a .nii file of `voxels`, given in RAS order and before scaling."""
    numbers = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    turns = [numbers[letter] for letter in spec.axes]
    stored = voxels.transpose([axis for axis, _ in turns])[tuple(slice(None, None, way) for _, way in turns)]
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1
    for number, (axis, way) in enumerate(turns):
        to_ras[axis, number] = way
        to_ras[axis, 3] = 0 if way > 0 else voxels.shape[axis] - 1
    place = np.eye(4)
    place[:3, :3] = Rotation.from_rotvec(spec.turned).as_matrix() @ np.diag(spec.spacing)
    place[:3, 3] = spec.origin
    affine = place @ to_ras
    affine[:3] /= {1: 1000.0, 3: 0.001}.get(spec.units, 1.0)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)

    start = (352 if spec.version == 1 else 544) + len(spec.extension)
    raw = bytes(348 if spec.version == 1 else 540)
    dim = [voxels.ndim + spec.dims_of_one, *stored.shape, 1, 1, 1, 1]
    values: dict[tuple[str, int], Any] = {
        ("sizeof_hdr", 0): len(raw),
        ("magic", 0): b"n+1\0" if spec.version == 1 else b"n+2\0\r\n\x1a\n",
        ("datatype", 0): DTYPES[spec.dtype],
        ("bitpix", 0): 8 * np.dtype(spec.dtype).itemsize,
        ("vox_offset", 0): start,
        ("scl_slope", 0): spec.slope,
        ("scl_inter", 0): spec.inter,
        ("xyzt_units", 0): spec.units,
        ("pixdim", 0): 1.0,
        **{("dim", i): n for i, n in enumerate(dim)},
        **{("pixdim", i + 1): size for i, size in enumerate(sizes)},
    }
    if spec.form == "sform":
        values["sform_code", 0] = 2
        values |= {("srow", i): number for i, number in enumerate(affine[:3].ravel())}
    else:
        turn = affine[:3, :3] / sizes
        if np.linalg.det(turn) < 0:
            values["pixdim", 0] = -1.0
            turn[:, 2] *= -1
        *vector, scalar = Rotation.from_matrix(turn).as_quat()
        values["qform_code", 0] = 1
        values |= {("quatern", i): math.copysign(1, scalar) * number for i, number in enumerate(vector)}
        values |= {("qoffset", i): number for i, number in enumerate(affine[:3, 3])}
    for (name, index), value in {**values, **spec.fields}.items():
        raw = patch(raw, spec, name, value, index)
    flag = bytes([bool(spec.extension), 0, 0, 0])
    kind = np.dtype(spec.dtype).newbyteorder(spec.order)
    return raw + flag + spec.extension + stored.astype(kind).tobytes("F")


def draw_case(seed: int = 0, most: int = 100) -> dict[str, Array]:
    """Return a case of 12 × 14 × 10 voxels in RAS order, with values that every type can hold."""
    rng = np.random.default_rng(seed)
    volumes: dict[str, Array] = {}
    for channel in CHANNELS[:4]:
        volumes[channel] = np.zeros((12, 14, 10), np.int64)
        volumes[channel][2:10, 1:12, 2:8] = rng.integers(1, most, (8, 11, 6))
    seg = np.zeros((12, 14, 10), np.int64)
    seg[3:8, 3:8, 3:6] = rng.choice([0, 1, 2, 4], (5, 5, 3))
    volumes["seg"] = seg
    return volumes


def path_of(folder: Path, channel: str, extension: str = ".nii.gz") -> Path:
    return folder / CASE / f"{CASE}_{channel}{extension}"


def write_files(folder: Path, contents: Mapping[str, bytes], extension: str = ".nii") -> None:
    """Write each channel's file."""
    (folder / CASE).mkdir(parents=True)
    for channel, content in contents.items():
        path_of(folder, channel, extension).write_bytes(content)


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def prepare(folder: Path, grid: tuple[int, int, int] = GRID) -> PreparedCase:
    """Find and prepare the one case under `folder`, within the watchdog's time."""
    release = RELEASES["brats2021"]
    with watchdog():
        (case,) = find_cases(folder, release)
        return prepare_case(case, grid, 1.0)


def assert_right(prepared: PreparedCase, volumes: Mapping[str, Array], spacing: tuple[float, ...] = (1, 1, 1)) -> None:
    """Check a prepared case against its volumes in RAS order, by arithmetic of its own.

    The image is checked where the brain keeps its voxels: at 1 mm in a grid that holds it.
    """
    images = [np.asarray(volumes[channel], np.float64) for channel in CHANNELS[:4]]
    seg = volumes["seg"]
    brain = sum(image != 0 for image in images) > 0
    start, stop = np.argwhere(brain).min(0), np.argwhere(brain).max(0) + 1
    scored = np.argwhere(brain | (seg > 0))
    box = tuple(slice(a, b + 1) for a, b in zip(scored.min(0), scored.max(0), strict=True))
    geometry = prepared.geometry
    assert geometry.shape == seg.shape
    assert geometry.box_start == tuple(start)
    assert geometry.box_shape == tuple(stop - start)
    np.testing.assert_allclose(geometry.spacing_mm, spacing, rtol=1e-4)
    regions = np.stack([(seg == 1) | (seg == 4), (seg == 1) | (seg == 2) | (seg == 4), seg == 4])
    np.testing.assert_array_equal(prepared.truth, regions[(slice(None), *box)])

    assert np.isfinite(prepared.image).all()
    if tuple(spacing) != (1, 1, 1):
        return
    expected = np.zeros((4, *GRID))
    placed = tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(GRID, stop - start, strict=True))
    for channel, image in enumerate(images):
        inside = image[brain]
        inside = inside / np.abs(inside).max()  # so that no square is too large or too small
        scored = np.zeros(image.shape)
        scored[brain] = np.clip((inside - inside.mean()) / inside.std(), -6, 6)
        expected[(channel, *placed)] = scored[box]
    np.testing.assert_allclose(prepared.image.astype(np.float64), expected, atol=4e-3)  # float16 within ±6
    assert prepared.mask.sum() == regions.sum()
