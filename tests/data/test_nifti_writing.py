"""Files written for a scan open aligned with it, in every orientation of the scan on disk."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from fedserdiff.data.nifti import read_volume
from fedserdiff.data.nifti_writing import write_like
from fedserdiff.errors import StorageError

OBLIQUE = euler2mat(0.2, -0.1, 0.3)
AFFINES = {
    "plain": np.eye(4),
    "oblique": from_matvec(OBLIQUE, (10, -20, 30)),
    "oblique and anisotropic": from_matvec(OBLIQUE @ np.diag([0.9, 1.3, 5.0]), (-80, 2, 7)),
    "flipped": from_matvec(np.diag([-1, -1, 1]), (120, 90, -60)),
    "resampled": from_matvec(np.diag([0.5, 2.0, 3.3]), (0, 0, 0)),
}


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
@pytest.mark.parametrize("name", list(AFFINES))
def test_a_written_map_has_the_scans_affine_shape_and_every_voxel_in_its_place(
    tmp_path: Path, name: str, axes: str
) -> None:
    rng = np.random.default_rng(0)
    image = nib.Nifti1Image(rng.integers(1, 99, (5, 6, 7)).astype(np.int16), AFFINES[name])
    image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(axes))))
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")

    write_like(tmp_path / "map.nii.gz", scan, (scan.voxels % 4).astype(np.uint8))

    written, read = nib.load(tmp_path / "map.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    assert written.shape == read.shape
    np.testing.assert_array_equal(written.affine, read.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(read.dataobj) % 4)
    assert written.get_data_dtype() == np.uint8
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(written.header[field], read.header[field])


def test_channels_become_the_fourth_dimension_and_scaling_of_the_scan_is_not_the_maps(tmp_path: Path) -> None:
    scaled = nib.Nifti2Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINES["flipped"])
    scaled.header.set_slope_inter(0.5, 3)
    nib.save(scaled, tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    values = np.random.default_rng(1).random((2, *scan.shape)).astype(np.float32)

    write_like(tmp_path / "map.nii", scan, values)

    written = nib.load(tmp_path / "map.nii")
    assert isinstance(written, nib.Nifti2Image)
    assert written.shape == (2, 3, 4, 2)
    back = [read_volume(tmp_path / "map.nii", channel).voxels for channel in (0, 1)]
    np.testing.assert_array_equal(np.stack(back), values)


def test_a_map_of_one_modality_of_a_4d_file_is_3d(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4, 2), np.int16), AFFINES["oblique"]), tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii", 1)
    write_like(tmp_path / "map.nii", scan, np.ones((2, 3, 4), np.uint8))
    written = nib.load(tmp_path / "map.nii")
    assert written.shape == (2, 3, 4)
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "scan.nii").affine)


def test_the_same_voxels_give_the_same_bytes_and_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.int16), np.eye(4)), tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    for name in ("a.nii.gz", "b.nii.gz", "c.nii"):
        write_like(tmp_path / name, scan, np.ones((2, 3, 4), np.uint8))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "c.nii").read_bytes()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_like(tmp_path / "file" / "x.nii", scan, np.ones((2, 3, 4), np.uint8))
