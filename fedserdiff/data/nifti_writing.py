"""Writing of volumes as NIfTI, on the grid of the scan they were made from."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, ornt_transform
from numpy.typing import NDArray

from fedserdiff.data.nifti import Volume
from fedserdiff.errors import StorageError
from fedserdiff.files import write_whole

_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_DESCRIPTION = "segmented by fedserdiff"


def write_like(file: Path, scan: Volume, voxels: NDArray[np.generic]) -> None:
    """Write a volume on the grid of `scan`, in the scan's axis order and with its header's orientation.

    Parameters
    ----------
    file : Path
        File to write; ``.nii.gz`` is compressed. The same voxels give the same bytes.
    scan : Volume
        Scan whose shape, sform, qform and units the file gets, so that viewers show both aligned.
    voxels : ndarray of shape (X, Y, Z) or (C, X, Y, Z)
        In canonical (RAS) order, as `scan.voxels`; channels become the fourth dimension.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    channels_last = np.moveaxis(voxels, 0, -1) if voxels.ndim == 4 else voxels
    stored = apply_orientation(channels_last, ornt_transform(_RAS, scan.turn))
    header = scan.header.copy()
    header.set_data_dtype(stored.dtype)
    header["scl_slope"], header["scl_inter"] = np.nan, np.nan  # no scaling, for nibabel
    header["cal_min"], header["cal_max"] = 0, 0
    header["descrip"] = _DESCRIPTION
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    content = kind(stored, None, header).to_bytes()
    if file.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    try:
        write_whole(file, lambda opened: opened.write(content))
    except OSError as error:
        raise StorageError(f"{file}: cannot be written ({error.strerror})") from None
