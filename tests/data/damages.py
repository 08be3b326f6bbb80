"""Ways to damage a NIfTI file, each with the message that must refuse it."""

import bz2
from collections.abc import Callable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
from hostile import Array, Spec, draw_case, encode, patch, zipped

from fedserdiff.data.nifti import MAX_VOXELS

VOLUMES = draw_case()

Damage = Callable[[bytes, Spec], bytes]


def _fields(values: Mapping[tuple[str, int], Any]) -> Damage:
    def damage(raw: bytes, spec: Spec) -> bytes:
        for (name, index), value in values.items():
            raw = patch(raw, spec, name, value, index)
        return raw

    return damage


def _dims(*dim: int) -> Damage:
    return _fields({("dim", i): n for i, n in enumerate(dim)})


def _srow(*srow: float) -> Damage:
    placed = {("srow", i): number for i, number in enumerate(srow)}
    return _fields({("sform_code", 0): 1, **placed})


def _qform(*quatern: float, qfac: float = 1.0) -> Damage:
    turn = {("quatern", i): number for i, number in enumerate(quatern)}
    return _fields({("sform_code", 0): 0, ("qform_code", 0): 1, ("pixdim", 0): qfac, **turn})


def _voxels(change: Callable[[Array], Array], dtype: str = "f8", channel: str = "t1") -> Damage:
    """Store other voxels: made of those of a channel, in another type."""
    return lambda raw, spec: encode(
        change(VOLUMES[channel].astype(dtype)), Spec(**{**vars(spec), "dtype": dtype, "slope": 1.0})
    )


def _claimed(dtype: str, code: int) -> Damage:
    """Store voxels of one type as if they were of another, of the same size."""
    claim = {("datatype", 0): code}
    return lambda raw, spec: encode(VOLUMES["t1"], Spec(**{**vars(spec), "dtype": dtype, "fields": claim}))


def with_value(value: float, count: int = 1) -> Callable[[Array], Array]:
    def change(voxels: Array) -> Array:
        voxels[5, 5, :count] = value
        return voxels

    return change


TYPES_REFUSED = {
    **{code: str(code) for code in (-4, 0, 2048, 9999)},
    **dict(zip((1, 32, 128, 1536, 1792), ("binary", "complex64", "RGB", "float128", "complex128"), strict=True)),
    2304: "RGBA",
}
NAN, INF = float("nan"), float("inf")
NOT_NIFTI = "not a readable NIfTI file"
DAMAGED = "truncated or damaged"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no dimensions": (_dims(0), "declares 0 dimensions"),
    "eight dimensions": (_dims(8), "declares 8 dimensions"),
    "negative dimensions": (_dims(-3), "declares -3 dimensions"),
    "one dimension": (_dims(1, 1680), r"1 dimensions, shape \(1680,\): one 3D volume"),
    "two dimensions": (_dims(2, 12, 140), r"2 dimensions, shape \(12, 140\): one 3D volume"),
    "four dimensions": (_dims(4, 12, 14, 5, 2), r"4 dimensions, shape \(12, 14, 5, 2\): one 3D volume"),
    "five dimensions": (_dims(5, 12, 14, 5, 1, 2), r"5 dimensions, shape \(12, 14, 5, 1, 2\): one 3D volume"),
    "seven dimensions": (_dims(7, 2, 2, 3, 7, 5, 2, 2), r"7 dimensions, shape .*: one 3D volume"),
    "an empty axis": (_dims(3, 12, 0, 10), "there are no voxels"),
    "an axis of negative length": (_dims(3, 12, 14, -10), "there are no voxels"),
    "two axes of negative length": (_dims(3, -12, 14, -10), "there are no voxels"),
    "huge axes": (_dims(3, 32767, 32767, 32767), f"more than {MAX_VOXELS} voxels"),
    "axes whose product wraps to 0": (_dims(3, 16384, 16384, 16384), f"more than {MAX_VOXELS} voxels"),
    "a slice too many": (_dims(3, 14, 14, 11), DAMAGED),
    "a slice too few": (_dims(3, 10, 10, 9), rf"{DAMAGED} \(it holds more than"),
    "half a gigabyte that is not there": (_dims(3, 500, 500, 500), DAMAGED),
    **{
        f"voxels of type {code}": (_fields({("datatype", 0): code}), f"voxels of type {name}:")
        for code, name in TYPES_REFUSED.items()
    },
    "complex voxels": (_claimed("i8", 32), "voxels of type complex64: real numbers"),
    "colours": (_claimed("i4", 2304), "voxels of type RGBA: real numbers"),
    "voxels inside the header": (_fields({("vox_offset", 0): 100}), "voxels begin at byte 100"),
    "voxels before the file": (_fields({("vox_offset", 0): -352}), "voxels begin at byte -352"),
    "voxels at no offset": (_fields({("vox_offset", 0): 0}), "voxels begin at byte 0"),
    "voxels beyond the file": (_fields({("vox_offset", 0): 20000}), DAMAGED),
    "voxels far beyond the file": (_fields({("vox_offset", 0): 2**50}), "voxels begin at byte 1.1259e"),
    **{
        f"{name} voxel size {size}": (_fields({("pixdim", axis): size}), "voxel size .* mm is not positive")
        for axis, name in ((1, "first"), (3, "last"))
        for size in (0.0, -1.0, NAN, INF, -INF)
    },
    "an affine of zeros": (_srow(*[0.0] * 12), r"voxel size \(0.0, 0.0, 0.0\) mm is not positive"),
    "an affine that is no number": (_srow(*[NAN] * 12), "voxel size .*nan.* mm is not positive"),
    "an infinite affine": (_srow(1, 0, 0, 0, 0, INF, 0, 0, 0, 0, 1, 0), "voxel size .*inf.* mm is not positive"),
    "an infinite origin": (_srow(1, 0, 0, INF, 0, 1, 0, 0, 0, 0, 1, 0), "position .* is not finite"),
    "an origin that is no number": (_srow(1, 0, 0, NAN, 0, 1, 0, 0, 0, 0, 1, 0), "position .* is not finite"),
    "one direction twice": (_srow(1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0), "not at right angles"),
    "a sheared grid": (_srow(1, 0.4, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), "not at right angles"),
    "tiny voxels": (_srow(*(1e-9 * n for n in (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))), "is not between 0.01 and 100"),
    "huge voxels": (_srow(*(1e9 * n for n in (1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))), "is not between 0.01 and 100"),
    "a quaternion that is no number": (_qform(NAN, 0, 0), "voxel size .*nan"),
    "a quaternion too long": (_qform(1, 1, 1), "orientation in its header is damaged"),
    "a handedness of 2": (_qform(0, 0, 0, qfac=2), "orientation in its header is damaged"),
    "no orientation": (_fields({("sform_code", 0): 0, ("qform_code", 0): 0}), "gives no orientation"),
    "an orientation of unknown kind": (_fields({("sform_code", 0): 258}), "orientation code 258"),
    "an orientation of negative kind": (_fields({("qform_code", 0): -1}), "orientation code -1"),
    "an infinite slope": (_fields({("scl_slope", 0): INF}), "scl_slope inf"),
    "an infinite intercept": (_fields({("scl_slope", 0): 1, ("scl_inter", 0): INF}), "scl_inter inf"),
    "an intercept that is no number": (_fields({("scl_slope", 0): 2, ("scl_inter", 0): NAN}), "scl_inter nan"),
    "a huge intercept": (_fields({("scl_slope", 0): 3e38, ("scl_inter", 0): 3e38}), "32-bit floats cannot hold"),
    "a header of another size": (
        _fields({("sizeof_hdr", 0): 349}),
        f"{NOT_NIFTI} .*does not begin with a NIfTI header",
    ),
    "no signature": (lambda r, s: patch(r, s, "magic", b"\0" * 4), f"{NOT_NIFTI} .*no NIfTI signature"),
    "an Analyze file": (lambda r, s: encode(VOLUMES["t1"], Spec(fields={("magic", 0): b""})), "Analyze"),
    "the header of a pair": (
        lambda r, s: patch(r, s, "magic", b"ni%d\0" % s.version + b"\r\n\x1a\n"),
        "header of a file pair",
    ),
    "1 voxel of NaN": (_voxels(with_value(NAN)), r"\b1 voxels are NaN or infinite"),
    "7 voxels of inf": (_voxels(with_value(-INF, 7), "f4"), r"\b7 voxels are NaN or infinite"),
    "voxels too large for 32 bits": (
        _voxels(with_value(1e300)),
        "values up to 1e.300, which 32-bit floats cannot hold",
    ),
    "voxels too small for 32 bits": (_voxels(lambda v: v * 1e-60), "which 32-bit floats cannot hold"),
    "nothing": (lambda r, s: b"", f"{NOT_NIFTI} .*it is empty"),
    "four bytes": (lambda r, s: r[:4], f"{NOT_NIFTI} .*4 bytes, less than a header"),
    "a header alone": (lambda r, s: r[:348], "less than a header|truncated or damaged"),
    "text": (lambda r, s: b"patient,age\n1,54\n" * 400, f"{NOT_NIFTI} .*does not begin with a NIfTI header"),
    "zeros": (lambda r, s: bytes(5000), f"{NOT_NIFTI} .*does not begin with a NIfTI header"),
    "DICOM": (lambda r, s: bytes(128) + b"DICM" + bytes(500), "a DICOM file: convert"),
    "bzip2": (lambda r, s: bz2.compress(r) + bytes(400), f"{NOT_NIFTI} .*does not begin with a NIfTI header"),
    "gzip in gzip": (lambda r, s: zipped(zipped(r)), "compressed twice: decompress it once"),
    "MGH": (lambda r, s: nib.MGHImage(np.ones((12, 14, 10), np.float32), np.eye(4)).to_bytes(), NOT_NIFTI),
    "garbage after it": (lambda r, s: r + b"garbage", rf"{DAMAGED} \(it holds more than"),
    "zeros after it": (lambda r, s: r + bytes(512), rf"{DAMAGED} \(it holds more than"),
    "itself once more": (lambda r, s: r + r, rf"{DAMAGED} \(it holds more than"),
}
