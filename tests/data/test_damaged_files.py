"""Scans that cannot be used: the error names the file and says what is wrong with it."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import DataError

Volumes = dict[str, NDArray[Any]]
WriteCase = Callable[..., Path]


def _refusal(folder: Path, release: str = "brats2021") -> str:
    """Return the text with which the one case under `folder` is refused."""
    (case,) = find_cases(folder, RELEASES[release])
    with pytest.raises(DataError) as caught:
        prepare_case(case, RELEASES[release], (16, 16, 16), 1.0)
    return str(caught.value)


@pytest.fixture
def volumes(draw_volumes: Callable[..., Volumes]) -> Volumes:
    return draw_volumes()


def test_label_of_another_release(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    case = write_case(tmp_path, volumes, release="brats2023-gli")  # its enhancing tumour is labelled 4

    text = _refusal(tmp_path, "brats2023-gli")

    assert text.startswith(f"{case / 'BraTS-GLI-00000-000-seg.nii.gz'}: label 4 is not one of brats2023-gli's")
    assert "brats2020 or brats2021 or brats2024-gli has it" in text


def test_labels_that_were_interpolated(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    volumes["seg"] = volumes["seg"] * np.float32(0.7)
    case = write_case(tmp_path, volumes)
    assert _refusal(tmp_path) == (
        f"{case / 'BraTS2021_00000_seg.nii.gz'}: labels are not whole numbers: was the segmentation interpolated?"
    )


@pytest.mark.parametrize("channel", ["flair", "seg"])
def test_volume_of_another_shape(tmp_path: Path, volumes: Volumes, write_case: WriteCase, channel: str) -> None:
    volumes[channel] = volumes[channel][:, :, :-1]
    case = write_case(tmp_path, volumes, axes="RAS")
    assert _refusal(tmp_path) == (
        f"{case / f'BraTS2021_00000_{channel}.nii.gz'}: "
        "shape (12, 14, 9) differs from (12, 14, 10) of BraTS2021_00000_t1.nii.gz"
    )


@pytest.mark.parametrize("channel", ["t2", "seg"])
def test_volume_that_lies_elsewhere(tmp_path: Path, volumes: Volumes, write_case: WriteCase, channel: str) -> None:
    path = write_case(tmp_path, volumes) / f"BraTS2021_00000_{channel}.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 1.0
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)

    assert _refusal(tmp_path) == (
        f"{path}: affine differs from that of BraTS2021_00000_t1.nii.gz: the volumes are not aligned"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("channel", ["t1ce", "seg"])
def test_voxels_that_are_no_numbers(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, channel: str, value: float
) -> None:
    volumes[channel] = volumes[channel].astype(np.float32)
    volumes[channel][0, 0, :3] = value
    case = write_case(tmp_path, volumes)
    assert _refusal(tmp_path) == f"{case / f'BraTS2021_00000_{channel}.nii.gz'}: 3 voxels are NaN or infinite"


# BraTS files are LPS: their axes are turned on reading, which reads the voxels early.
@pytest.mark.parametrize("axes", ["LPS", "RAS"])
@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize("channel", ["t1", "flair", "seg"])
def test_truncated_file(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, channel: str, extension: str, axes: str
) -> None:
    rng = np.random.default_rng(0)
    # Noise does not compress, so that half of a compressed file is far from all of its voxels.
    volumes["seg"] = np.where(volumes["seg"] > 0, rng.choice(np.array([1, 2, 4], np.uint8), (12, 14, 10)), 0)
    path = write_case(tmp_path, volumes, axes=axes, extension=extension) / f"BraTS2021_00000_{channel}{extension}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert _refusal(tmp_path).startswith(f"{path}: truncated or damaged (")


def test_a_changed_byte_in_a_compressed_file_is_found_by_its_checksum(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase
) -> None:
    path = write_case(tmp_path, volumes) / "BraTS2021_00000_t1.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    whole = gzip.compress(bytes(content), mtime=0)
    path.write_bytes(whole[:-8] + bytes(4) + whole[-4:])  # the checksum of other content
    assert str(path) in _refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"patient,age\n1,54\n" * 40])
@pytest.mark.parametrize("channel", ["t1", "seg"])
def test_file_that_is_no_nifti(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, channel: str, content: bytes
) -> None:
    path = write_case(tmp_path, volumes) / f"BraTS2021_00000_{channel}.nii.gz"
    path.write_bytes(content)
    assert _refusal(tmp_path).startswith(f"{path}: not a readable NIfTI file (")


def test_header_with_an_unknown_voxel_type(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    path = write_case(tmp_path, volumes, extension=".nii") / "BraTS2021_00000_t2.nii"
    _patch(path, 70, np.int16(9999))  # datatype
    assert _refusal(tmp_path).startswith(f"{path}: not a readable NIfTI file (")


def test_four_dimensions(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    path = write_case(tmp_path, volumes) / "BraTS2021_00000_t1ce.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((12, 14, 10, 2), np.int16), nib.load(path).affine), path)
    assert _refusal(tmp_path) == f"{path}: 4 dimensions, shape (12, 14, 10, 2): one 3D volume is expected"


def _patch(path: Path, offset: int, value: np.generic) -> None:
    """Overwrite a field of an uncompressed NIfTI-1 header, as nibabel itself would refuse to."""
    content = bytearray(path.read_bytes())
    content[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("size", [0.0, np.nan])
@pytest.mark.parametrize("offset", [80, 280], ids=["pixdim[1]", "srow_x[0]"])
def test_voxel_size_that_is_not_positive(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, offset: int, size: float
) -> None:
    case = write_case(tmp_path, volumes, extension=".nii")
    for path in case.iterdir():
        _patch(path, offset, np.float32(size))
    text = _refusal(tmp_path)
    assert text == f"{case / 'BraTS2021_00000_t1.nii'}: voxel size ({size}, 1.0, 1.0) mm is not positive"


def test_empty_brain(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    for channel in ("t1", "t1ce", "t2", "flair"):
        volumes[channel][:] = 0
    case = write_case(tmp_path, volumes)
    assert _refusal(tmp_path) == f"{case}: every voxel of every modality is 0: there is no brain"


@pytest.mark.parametrize("value", [0, 0.1, 700])
def test_modality_without_contrast(tmp_path: Path, volumes: Volumes, write_case: WriteCase, value: float) -> None:
    volumes["t2"] = np.where(volumes["t2"] > 0, np.float32(value), np.float32(0))
    case = write_case(tmp_path, volumes)
    assert re.fullmatch(
        re.escape(f"{case / 'BraTS2021_00000_t2.nii.gz'}: the same value in every brain voxel") + ".*",
        _refusal(tmp_path),
    )
