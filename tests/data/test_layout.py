"""Cases are found in every common layout, and files that are not used are reported."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.site_cases import passed_over_note
from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Site

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")

# By release: a name as its archives have it, what its files end in, and its enhancing tumour's label.
NAMES: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "brats2017": ("Brats17_CBICA_AAB_1", "_", OLD, 4),
    "brats2018": ("Brats18_TCIA08_242_1", "_", OLD, 4),
    "brats2019": ("BraTS19_TMC_06643_1", "_", OLD, 4),
    "brats2020": ("BraTS20_Training_012", "_", OLD, 4),
    "brats2021": ("BraTS2021_01666", "_", OLD, 4),
    "brats2023-gli": ("BraTS-GLI-00005-001", "-", NEW, 3),
    "brats2023-ssa": ("BraTS-SSA-00008-000", "-", NEW, 3),
    "brats2023-men": ("BraTS-MEN-00004-000", "-", NEW, 3),
    "brats2023-met": ("BraTS-MET-00086-000", "-", NEW, 3),
    "brats2023-ped": ("BraTS-PED-00002-000", "-", NEW, 3),
    "brats2024-gli": ("BraTS-GLI-02064-101", "-", NEW, 3),
    "brats2024-met": ("BraTS-MET-00761-003", "-", NEW, 3),
    "brats2024-ped": ("BraTS-PED-00085-000", "-", NEW, 1),
    "brats2024-men-rt": ("BraTS-MEN-RT-0004-1", "_", ("t1c", "gtv"), 1),
    "fets2021": ("FeTS21_Training_012", "_", OLD, 4),
    "fets2022": ("FeTS2022_01341", "_", OLD, 4),
}


def volumes(names: tuple[str, ...], enhancing: int) -> dict[str, NDArray[np.int16]]:
    """Noise in a box, and in the segmentation, the last, one box of 2 × 2 × 2 voxels of enhancing tumour."""
    rng = np.random.default_rng(0)
    drawn = {name: np.zeros((12, 12, 10), np.int16) for name in names}
    for volume in list(drawn.values())[:-1]:
        volume[2:10, 2:10, 2:8] = rng.integers(100, 1000, (8, 8, 6))
    drawn[names[-1]][4:6, 4:6, 4:6] = enhancing
    return drawn


def write(folder: Path, release: str, extension: str = ".nii.gz", name: str | None = None) -> str:
    """Write a case's files side by side in a folder; return the case's name."""
    example, separator, names, enhancing = NAMES[release]
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, volume in volumes(names, enhancing).items():
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{name or example}{separator}{suffix}{extension}")
    return name or example


def test_every_release_is_here() -> None:
    assert set(NAMES) == set(RELEASES)


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize("below", ["CASE", ".", "HGG/CASE", "archive/MICCAI_Training/LGG/CASE", "all/CASE_nifti"])
@pytest.mark.parametrize("release", NAMES)
def test_a_case_is_found_and_prepared_wherever_it_lies(
    tmp_path: Path, release: str, below: str, extension: str
) -> None:
    name = write(tmp_path / below.replace("CASE", NAMES[release][0]), release, extension)

    (case,) = find_cases(tmp_path, RELEASES[release])

    assert (case.name, len(case.images)) == (name, len(NAMES[release][2]) - 1)
    assert passed_over_note(Site("north", release, str(tmp_path))) is None
    if extension == ".nii" and below in ("CASE", "."):
        prepared = prepare_case(case, (16, 16, 16), 1.0)
        assert prepared.mask.reshape(len(prepared.mask), -1).sum(1).tolist() == [8] * len(prepared.mask)


def test_grades_in_folders_of_their_own_are_one_hospitals(tmp_path: Path) -> None:
    for grade, name in (("HGG", "Brats18_CBICA_AAB_1"), ("LGG", "Brats18_TCIA09_141_1")):
        write(tmp_path / grade / name, "brats2018", name=name)
    (tmp_path / "survival_data.csv").touch()
    (tmp_path / "HGG" / "name_mapping.csv").touch()
    site = Site("north", "brats2018", str(tmp_path))
    assert [case.name for case in find_cases(tmp_path, RELEASES["brats2018"])] == [
        "Brats18_CBICA_AAB_1",
        "Brats18_TCIA09_141_1",
    ]
    assert passed_over_note(site) is None


def test_what_archives_made_on_a_mac_add_is_passed_over(tmp_path: Path) -> None:
    name = write(tmp_path / "data" / NAMES["brats2021"][0], "brats2021")
    shutil.copytree(tmp_path / "data", tmp_path / "__MACOSX" / "data")
    for folder in (tmp_path / "data", tmp_path / "data" / name):
        (folder / f"._{name}_t1.nii.gz").write_bytes(b"\x00\x05\x16\x07")
        (folder / ".DS_Store").touch()
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])
    assert {file.parent for file in case.files} == {tmp_path / "data" / name}
    assert passed_over_note(Site("north", "brats2021", str(tmp_path))) is None


def test_files_that_were_unpacked_into_folders_of_their_names_are_read(tmp_path: Path) -> None:
    """Some archives hold ``CASE-t1c.nii/00000116_brain_t1ce.nii``."""
    name, separator, names, enhancing = NAMES["brats2023-gli"]
    for suffix, volume in volumes(names, enhancing).items():
        folder = tmp_path / name / f"{name}{separator}{suffix}.nii"
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"00000116_{suffix}.nii")
    (case,) = find_cases(tmp_path, RELEASES["brats2023-gli"])
    assert [file.name for file in case.images] == [f"00000116_{suffix}.nii" for suffix in names[:-1]]
    (tmp_path / name / f"{name}-t1c.nii" / "second.nii").touch()
    with pytest.raises(DataError, match=r"t1c\.nii: a directory: a NIfTI file is expected"):
        find_cases(tmp_path, RELEASES["brats2023-gli"])


def test_segmentations_may_lie_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    name = write(tmp_path / "images" / NAMES["brats2021"][0], "brats2021")
    (tmp_path / "segmentations").mkdir()
    moved = (tmp_path / "images" / name / f"{name}_seg.nii.gz").rename(
        tmp_path / "segmentations" / f"{name}_seg.nii.gz"
    )
    (case,) = find_cases(tmp_path, RELEASES["brats2021"])
    assert case.seg == moved


def test_a_case_that_is_there_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / NAMES["brats2021"][0], "brats2021")
    write(tmp_path / "b" / first, "brats2021")
    with pytest.raises(
        DataError, match=r"a/BraTS2021_01666/.*_t1\.nii\.gz: modality t1 .* also in /.*b/BraTS2021_01666"
    ):
        find_cases(tmp_path, RELEASES["brats2021"])


def test_a_nested_case_that_lacks_a_file_is_told_by_the_files_path(tmp_path: Path) -> None:
    name = write(tmp_path / "HGG" / NAMES["brats2019"][0], "brats2019")
    gone = tmp_path / "HGG" / name / f"{name}_flair.nii.gz"
    gone.unlink()
    with pytest.raises(DataError, match=rf"{gone}: modality flair of case {name} is missing"):
        find_cases(tmp_path, RELEASES["brats2019"])


def test_another_release_in_nested_folders_is_recognised(tmp_path: Path) -> None:
    write(tmp_path / "HGG" / NAMES["brats2019"][0], "brats2019")
    with pytest.raises(DataError, match="no case of brats2018 here, but 1 of brats2019: is the release right"):
        find_cases(tmp_path, RELEASES["brats2018"])


def test_what_is_not_used_is_told_by_its_place_and_folders_without_a_case_as_one(tmp_path: Path) -> None:
    write(tmp_path / "HGG" / NAMES["brats2019"][0], "brats2019")
    for folder in ("HGG/MR_007", "old/a", "old/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "HGG" / "P1.nii.gz").touch()
    (tmp_path / "part2.zip").touch()
    assert passed_over_note(Site("north", "brats2019", str(tmp_path))) == (
        "site north: ignored, not named as a case of brats2019: HGG/MR_007, HGG/P1.nii.gz, old, part2.zip"
    )


def test_a_case_too_deep_is_not_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "a/b/c/d/e" / NAMES["brats2021"][0], "brats2021")
    assert len(find_cases(tmp_path / "a", RELEASES["brats2021"])) == 1
    with pytest.raises(DataError, match="no case of brats2021 here"):
        find_cases(tmp_path, RELEASES["brats2021"])
