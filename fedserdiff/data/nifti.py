"""NIfTI files read as voxels in canonical orientation: a correct result, or a `DataError` with the file and the reason.

Every header field is checked before use, and memory is bounded before it is allocated: a file is read up to the length
that its header declares, and no header may declare more than `MAX_VOXELS`.
"""

import errno
import gzip
import math
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from fedserdiff.errors import DataError, FedSerDiffError, StorageError, reason_of

EXTENSIONS = (".nii.gz", ".nii")
"""File name endings, the longer one first."""

SHADOWS = (".", "__MACOSX")
"""Name prefixes of files that systems add: hidden files, and folders in archives made on a Mac."""

MAX_VOXELS = 512**3
"""Largest volume accepted: fifteen times a BraTS volume, more than any head scan. Larger ones are refused unread."""

MAX_EXTENSION_BYTES = 1 << 26
"""Most bytes between a header and its voxels; some scanner software keeps whole DICOM headers there."""

VOXEL_SIZE_MM = (0.01, 100.0)
"""Smallest and largest voxel size in mm. Beyond them, the header is damaged or its units are wrong."""

_MAX_FILE_BYTES = MAX_VOXELS * 8 + 2 * MAX_EXTENSION_BYTES  # the widest voxels, incompressible
_CHUNK = 1 << 22
_GZIP = b"\x1f\x8b"
_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by header size, the first field of a header
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}  # offset and text
_PAIR_MAGIC = {348: b"ni1\0", 540: b"ni2\0\r\n\x1a\n"}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_TYPES = {1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2304: "RGBA"}
_MM_IN = {1: 1000.0, 3: 0.001}  # metres and micrometres, by the spatial bits of xyzt_units; everything else is mm
_SPATIAL_BITS = 0b111
_FLOAT32 = (float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max))
_ORIENTATIONS = range(6)  # valid sform and qform codes; 0 means unset
_LEAST_RIGHT_ANGLE = 0.99  # volume spanned by the axes' unit vectors: 1 at right angles
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # resources of this machine, not a fault of the file
_Stream = BufferedReader | gzip.GzipFile
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Volume:
    """One scan or segmentation, with its axes turned to RAS.

    Attributes
    ----------
    path : Path
        File it was read from.
    voxels : ndarray of shape (X, Y, Z)
        Finite values, as stored, or float64 if the header scales them.
    affine : ndarray of shape (4, 4)
        Map from voxel indices to mm.
    header : Nifti1Header
        Header on disk, of one volume or of the whole 4D file.
    turn : ndarray of shape (3, 2)
        Orientation of the voxels on disk, as a nibabel orientation array.
    """

    path: Path
    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    header: nib.Nifti1Header
    turn: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.voxels.shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def scaling(self) -> tuple[float, float]:
        """Slope and intercept by which the header scales stored values; 1 and 0 if it does not."""
        return _scaling(self.path, self.header)

    @property
    def of_integers(self) -> bool:
        """Whether integers are stored, which the header may scale."""
        return _dtype(self.path, self.header).kind in "iu"


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory; refuse broken links, which would silently lose a case.

    Raises
    ------
    DataError
        If the path is a broken symbolic link, or cannot be inspected.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        if path.is_symlink():
            raise unreadable(path, error) from None
        return False
    except ValueError:  # a null character, which no path can contain
        return False
    except OSError as error:
        raise unreadable(path, error) from None


def check_is_file(path: Path) -> None:
    """Check that a path is a regular file, without opening it: a pipe would wait for its writer.

    Raises
    ------
    DataError
        If `path` is not a regular file (symbolic links are followed), or is larger than any usable scan.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(about.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(about.st_mode)), "something else")
        raise DataError(f"{path}: {kind}: a NIfTI file is expected")
    if about.st_size > _MAX_FILE_BYTES:
        raise DataError(f"{path}: {about.st_size} bytes, more than a volume of {MAX_VOXELS} voxels can fill")


def unreadable(path: Path, error: OSError) -> FedSerDiffError:
    """Return the error for a path that the operating system could not read: the file's fault, or the machine's."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return DataError(f"{path}: a symbolic link to a missing file")
    kind = StorageError if error.errno in _EXHAUSTED else DataError
    return kind(f"{path}: cannot be read ({reason_of(error)})")


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises
    ------
    DataError
        As for `check_is_file`, and if reading fails.
    StorageError
        If this machine is out of memory or file descriptors; the file is not at fault.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except MemoryError:
        raise StorageError(f"{path}: cannot be read (out of memory)") from None


def read_volume(path: Path, channel: int | None = None) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file; its content, not its name, tells whether it is compressed by gzip.

    `channel` is the number of the volume to return from a 4D file, which holds several modalities.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, is not a single volume of real numbers, does not give its position in
        space, or holds a value that is not finite.
    StorageError
        As for `open_file`.
    """
    with open_file(path) as stored:
        compressed = stored.read(2) == _GZIP
        stored.seek(0)
        if not compressed:
            return _read(path, stored, channel)
        with gzip.GzipFile(fileobj=stored) as file:
            return _read(path, file, channel)


def _read(path: Path, file: _Stream, channel: int | None) -> Volume:
    header = _header(path, file)
    shape = _shape(path, header, channel)
    dtype = _dtype(path, header)
    affine = _affine(path, header)
    slope, inter = _scaling(path, header)
    start = _start(path, header)

    length = math.prod(shape) * dtype.itemsize
    _skip(path, file, start - header.sizeof_hdr)
    voxels = np.frombuffer(_exactly(path, file, length), dtype).reshape(shape, order="F")
    if file.read(1):  # decompression reaches the checksum here, too
        raise _damaged(path, f"it holds more than the {start + length} bytes that its header declares")
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    with np.errstate(all="ignore"):
        if (slope, inter) != (1.0, 0.0):
            voxels = voxels.astype(np.float64) * slope + inter
    _check_values(path, voxels)

    if len(shape) == 4:
        voxels = voxels[..., channel]
    turn = io_orientation(affine)
    return Volume(path, apply_orientation(voxels, turn), affine @ inv_ornt_aff(turn, shape[:3]), header, turn)


def _header(path: Path, file: _Stream) -> nib.Nifti1Header:
    """Read a header in either byte order; check only that it is one."""
    raw = file.read(348)
    if raw.startswith(_GZIP):
        raise _no_nifti(path, "compressed twice: decompress it once")
    if len(raw) < 348:
        raise _no_nifti(path, f"{len(raw)} bytes, less than a header" if raw else "it is empty")
    for order in ("<", ">"):
        size = int(np.frombuffer(raw, f"{order}i4", count=1)[0])
        if size not in _HEADERS:
            continue
        raw += file.read(size - 348)
        if len(raw) < size:
            raise _no_nifti(path, f"{len(raw)} bytes, less than a header")
        offset, magic = _MAGIC[size]
        found = raw[offset : offset + len(magic)]
        if found == _PAIR_MAGIC[size]:
            raise _no_nifti(path, "the header of a file pair: convert the pair to one .nii.gz")
        if found != magic:
            raise _no_nifti(path, "no NIfTI signature: convert an Analyze file to NIfTI with its orientation")
        return _HEADERS[size](raw, order, check=False)
    if raw[128:132] == b"DICM":
        raise _no_nifti(path, "a DICOM file: convert the series first")
    raise _no_nifti(path, "it does not begin with a NIfTI header")


def _shape(path: Path, header: nib.Nifti1Header, channel: int | None) -> tuple[int, ...]:
    count, *sizes = (int(size) for size in header["dim"])
    if not 1 <= count <= 7:
        raise _no_nifti(path, f"its header declares {count} dimensions")
    shape = tuple(sizes[:count])
    while len(shape) > 3 and shape[-1] == 1:  # some tools write a volume as a series of one
        shape = shape[:-1]
    if channel is not None and (shape[3] if len(shape) == 4 else 1) <= channel:
        raise DataError(f"{path}: shape {shape}: there is no modality number {channel}")
    if len(shape) != 3 and (channel is None or len(shape) != 4):
        raise DataError(f"{path}: {len(shape)} dimensions, shape {shape}: one 3D volume is expected")
    if min(shape) < 1:
        raise DataError(f"{path}: shape {shape}: there are no voxels")
    if math.prod(shape) > MAX_VOXELS:
        raise DataError(f"{path}: shape {shape}: more than {MAX_VOXELS} voxels: is the header damaged?")
    return shape


def _dtype(path: Path, header: nib.Nifti1Header) -> np.dtype[np.generic]:
    code = int(header["datatype"])
    if code in _TYPES:
        return np.dtype(_TYPES[code]).newbyteorder(header.endianness)
    raise _no_nifti(path, f"voxels of type {_REFUSED_TYPES.get(code, code)}: real numbers of 8 to 64 bits are expected")


def _affine(path: Path, header: nib.Nifti1Header) -> NDArray[np.float64]:
    """Return the affine in mm, from the header's sform or, without one, its qform."""
    sizes = np.array(header["pixdim"][1:4], np.float64)
    _check_positive(path, sizes)
    for code in (int(header["sform_code"]), int(header["qform_code"])):
        if code not in _ORIENTATIONS:
            raise DataError(f"{path}: orientation code {code} in its header is not defined in NIfTI: it is damaged")
    if header["sform_code"]:
        affine = header.get_sform()
    elif header["qform_code"]:
        if header["pixdim"][0] == 0:
            header["pixdim"][0] = 1  # as the standard says
        try:
            with np.errstate(all="ignore"):
                affine = header.get_qform()
        except (ValueError, HeaderDataError) as error:
            raise DataError(f"{path}: the orientation in its header is damaged ({error})") from None
    else:
        raise DataError(
            f"{path}: its header gives no orientation (sform_code and qform_code are 0), "
            "so left and right are unknown: convert the scan again with its orientation"
        )
    with np.errstate(all="ignore"):
        affine = np.asarray(affine, np.float64)
        affine[:3] *= _MM_IN.get(int(header["xyzt_units"]) & _SPATIAL_BITS, 1.0)
        sizes = voxel_sizes(affine)
        _check_positive(path, sizes)
        if not np.isfinite(affine).all():
            raise DataError(f"{path}: the position in its header is not finite")
        if not (sizes.min() >= VOXEL_SIZE_MM[0] and sizes.max() <= VOXEL_SIZE_MM[1]):
            raise DataError(
                f"{path}: voxel size {_mm(sizes)} mm is not between {VOXEL_SIZE_MM[0]:g} and {VOXEL_SIZE_MM[1]:g} mm: "
                "are the header's units right?"
            )
        if abs(np.linalg.det(affine[:3, :3] / sizes)) < _LEAST_RIGHT_ANGLE:
            raise DataError(f"{path}: the axes in its header are not at right angles: resample the scan")
    return affine


def _check_positive(path: Path, sizes: NDArray[np.float64]) -> None:
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise DataError(f"{path}: voxel size {_mm(sizes)} mm is not positive")


def _mm(sizes: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(size) for size in sizes)


def _scaling(path: Path, header: nib.Nifti1Header) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # no scaling: the standard's way, and an older one
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise DataError(f"{path}: scl_slope {slope:g} and scl_inter {inter:g} in its header must be finite")
    return slope, inter


def _start(path: Path, header: nib.Nifti1Header) -> int:
    """Return the byte offset of the voxels, past any header extensions, which are not read."""
    offset = float(header["vox_offset"])
    least = header.sizeof_hdr + 4
    if not (least <= offset <= least + MAX_EXTENSION_BYTES and offset.is_integer()):
        raise _no_nifti(path, f"its header says that voxels begin at byte {offset:g}")
    return int(offset)


def _skip(path: Path, file: _Stream, count: int) -> None:
    while count:
        part = len(file.read(min(count, _CHUNK)))
        if not part:
            raise _damaged(path, "it ends before its first voxel")
        count -= part


def _exactly(path: Path, file: _Stream, count: int) -> bytearray:
    """Read `count` bytes, allocating no more memory than the file fills."""
    content = bytearray()
    while len(content) < count:
        part = file.read(min(count - len(content), _CHUNK))
        if not part:
            raise _damaged(path, f"{len(content)} bytes of voxels instead of the {count} that its header declares")
        content += part
    return content


def _check_values(path: Path, voxels: NDArray[Any]) -> None:
    """Check that every value is finite, also as a 32-bit float, the type in which scans are compared."""
    if voxels.dtype.kind != "f":
        return
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise DataError(f"{path}: {bad} voxels are NaN or infinite")
    most = max(abs(float(voxels.min())), abs(float(voxels.max())))
    if most and not _FLOAT32[0] <= most <= _FLOAT32[1]:
        raise DataError(f"{path}: values up to {most:g}, which 32-bit floats cannot hold: rescale the scan")


def _damaged(path: Path, reason: object) -> DataError:
    return DataError(f"{path}: truncated or damaged ({reason})")


def _no_nifti(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a readable NIfTI file ({reason})")
