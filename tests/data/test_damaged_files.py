"""Scans that cannot be used: the error names the file and says what is wrong with it."""

import gzip
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hostile import watchdog
from numpy.typing import NDArray

from fedserdiff.data.cache import cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import DataError

Volumes = dict[str, NDArray[Any]]
WriteCase = Callable[..., Path]


def _refusal(folder: Path, release: str = "brats2021") -> str:
    """Return the text with which the one case under `folder` is refused."""
    try:
        with watchdog():
            (case,) = find_cases(folder, RELEASES[release])
            prepare_case(case, (16, 16, 16), 1.0)
    except DataError as error:
        return str(error)
    pytest.fail("the case is not refused")


@pytest.fixture
def volumes(draw_volumes: Callable[..., Volumes]) -> Volumes:
    return draw_volumes()


def test_label_of_another_release(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    case = write_case(tmp_path, volumes, release="brats2023-gli")  # its enhancing tumour is labelled 4

    text = _refusal(tmp_path, "brats2023-gli")

    assert text.startswith(f"{case / 'BraTS-GLI-00000-000-seg.nii.gz'}: label 4 is not one of brats2023-gli's")
    assert "release brats2024-gli has it" in text


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
    assert text.splitlines() == [
        f"{case / f'BraTS2021_00000_{channel}.nii'}: voxel size ({size}, 1.0, 1.0) mm is not positive"
        for channel in ("t1", "t1ce", "t2", "flair", "seg")
    ]


def test_empty_brain(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    for channel in ("t1", "t1ce", "t2", "flair"):
        volumes[channel][:] = 0
    case = write_case(tmp_path, volumes)
    assert _refusal(tmp_path) == f"{case}: every voxel of every modality is 0: no brain found"


@pytest.mark.parametrize("value", [0, 0.1, 700])
def test_modality_without_contrast(tmp_path: Path, volumes: Volumes, write_case: WriteCase, value: float) -> None:
    volumes["t2"] = np.where(volumes["t2"] > 0, np.float32(value), np.float32(0))
    case = write_case(tmp_path, volumes)
    assert re.fullmatch(
        re.escape(f"{case / 'BraTS2021_00000_t2.nii.gz'}: every brain voxel has the same value") + ".*",
        _refusal(tmp_path),
    )


def _listen(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the address of a socket may have 107 bytes at most
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)
    os.fchdir(here)
    os.close(here)


def _loop(path: Path) -> None:
    path.with_name("other").symlink_to(path)
    path.symlink_to(path.with_name("other"))


PLACES: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda path: None, "is missing"),
    "a directory": (Path.mkdir, "a directory: a NIfTI file is expected"),
    "a link to a directory": (lambda p: p.symlink_to("/"), "a directory: a NIfTI file is expected"),
    "a named pipe": (os.mkfifo, "a named pipe: a NIfTI file is expected"),
    "a socket": (_listen, "a socket: a NIfTI file is expected"),
    "a link to a device without end": (lambda p: p.symlink_to("/dev/zero"), "a device: a NIfTI file is expected"),
    "a link to nothing": (lambda p: p.symlink_to("../gone.nii.gz"), "a symbolic link to a missing file"),
    "a link to itself": (lambda p: p.symlink_to(p), "cannot be read (Too many levels of symbolic links)"),
    "a loop of links": (_loop, "cannot be read (Too many levels of symbolic links)"),
    "a link through a file": (lambda p: p.symlink_to("/dev/null/scan"), "cannot be read (Not a directory)"),
}


@pytest.mark.parametrize("channel", ["t1", "flair", "seg"])
@pytest.mark.parametrize("kind", PLACES)
def test_something_else_in_place_of_a_file(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, kind: str, channel: str
) -> None:
    put, reason = PLACES[kind]
    path = write_case(tmp_path, volumes) / f"BraTS2021_00000_{channel}.nii.gz"
    path.unlink()
    put(path)
    text = _refusal(tmp_path)
    assert text.startswith(f"{path}: ")
    assert reason in text


@pytest.mark.parametrize("kind", [kind for kind in PLACES if kind != "nothing"])
def test_something_else_that_takes_a_files_place_after_it_was_found(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, kind: str
) -> None:
    put, reason = PLACES[kind]
    path = write_case(tmp_path, volumes) / "BraTS2021_00000_t2.nii.gz"
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])
    path.unlink()
    put(path)
    for read in (
        lambda: prepare_case(case, (16, 16, 16), 1.0),
        lambda: cached_cases([case], (16, 16, 16), 1.0, tmp_path / "cache"),
    ):
        with pytest.raises(DataError) as caught, watchdog():
            read()
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)


def test_a_file_that_is_gone_after_it_was_found(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    path = write_case(tmp_path, volumes) / "BraTS2021_00000_t2.nii.gz"
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: cannot be read (No such file or directory)")):
        cached_cases([case], (16, 16, 16), 1.0, tmp_path / "cache")


def test_links_to_good_files_and_folders_are_followed(tmp_path: Path, volumes: Volumes, write_case: WriteCase) -> None:
    kept = write_case(tmp_path / "archive", volumes)
    for path in list(kept.iterdir()):
        path.rename(tmp_path / path.name)
        path.symlink_to(Path("..") / ".." / path.name)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / kept.name).symlink_to(kept)
    (case,) = find_cases(tmp_path / "scans", RELEASES["brats2021"])
    prepared = prepare_case(case, (16, 16, 16), 1.0)
    np.testing.assert_array_equal(prepared.truth[1], volumes["seg"][2:10, 1:12, 2:8] > 0)


def test_a_plain_file_beside_a_directory_of_the_compressed_ones_name_is_read(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase
) -> None:
    case = write_case(tmp_path, volumes, extension=".nii")
    (case / "BraTS2021_00000_t1.nii.gz").mkdir()
    (found,) = find_cases(tmp_path, RELEASES["brats2021"])
    assert found.images[0] == case / "BraTS2021_00000_t1.nii"


@pytest.mark.parametrize(
    ("target", "reason"), [("gone", "a symbolic link to a missing file"), ("BraTS2021_00001", "cannot be read (")]
)
def test_a_case_that_is_a_link_to_nowhere_is_not_passed_over(
    tmp_path: Path, volumes: Volumes, write_case: WriteCase, target: str, reason: str
) -> None:
    good = write_case(tmp_path, volumes)
    link = tmp_path / "BraTS2021_00001"
    link.symlink_to(target)
    assert _refusal(tmp_path).startswith(f"{link}: {reason}")
    (case,) = find_cases(tmp_path, RELEASES["brats2021"], only=[good.name])
    assert case.name == good.name


@pytest.mark.parametrize("folder", ["a\0b", "x" * 300, "file/scans"], ids=["null", "too long", "in a file"])
def test_a_hospitals_folder_that_cannot_be(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"no such directory|cannot be read \((File name too long|Not a directory)\)"):
        find_cases(tmp_path / folder, RELEASES["brats2021"])


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that any account may enter; temporary folders of pytest are one account's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nobody() -> Iterator[None]:
    """An account that may read no more than its permissions say, as the superuser's tests would otherwise."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    yield
    if superuser:
        os.seteuid(0)


CLOSED = {
    "file": "BraTS2021_00000/BraTS2021_00000_t2.nii.gz",
    "case": "BraTS2021_00000",
    "hospital": "",
}


@pytest.mark.parametrize("what", CLOSED)
def test_what_may_not_be_read_is_named(
    shared_folder: Path, volumes: Volumes, write_case: WriteCase, request: pytest.FixtureRequest, what: str
) -> None:
    write_case(shared_folder / "scans", volumes)
    closed = shared_folder / "scans" / CLOSED[what]
    closed.chmod(0)
    request.getfixturevalue("nobody")
    text = _refusal(shared_folder / "scans")
    assert text.startswith(str(closed))
    assert text.endswith(": cannot be read (Permission denied)")
