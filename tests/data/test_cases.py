import re
from pathlib import Path

import pytest

from fedserdiff.data.cases import find_cases
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.site_cases import passed_over_note
from fedserdiff.errors import DataError
from fedserdiff.settings.experiment import Site

_OLD_NAMES = ["t1", "t1ce", "t2", "flair"]
_NEW_NAMES = ["t1n", "t1c", "t2w", "t2f"]


def _empty_case(folder: Path, name: str, names: list[str], separator: str, extension: str = ".nii.gz") -> Path:
    """Make a case of empty files: finding looks at names only."""
    case = folder / name
    case.mkdir(parents=True)
    for suffix in [*names, "seg"]:
        (case / f"{name}{separator}{suffix}{extension}").touch()
    return case


def _case_2021(folder: Path, number: int) -> Path:
    return _empty_case(folder, f"BraTS2021_{number:05d}", _OLD_NAMES, "_")


@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
@pytest.mark.parametrize(
    ("release", "name", "names", "separator"),
    [
        ("brats2020", "BraTS20_Training_001", _OLD_NAMES, "_"),
        ("brats2021", "BraTS2021_00000", _OLD_NAMES, "_"),
        ("brats2023-gli", "BraTS-GLI-00000-000", _NEW_NAMES, "-"),
        ("brats2024-gli", "BraTS-GLI-02064-100", _NEW_NAMES, "-"),
    ],
)
def test_modalities_are_found_in_the_projects_order(
    tmp_path: Path, release: str, name: str, names: list[str], separator: str, extension: str
) -> None:
    _empty_case(tmp_path, name, names, separator, extension)

    (case,) = find_cases(tmp_path, RELEASES[release])

    assert [path.name for path in case.images] == [f"{name}{separator}{suffix}{extension}" for suffix in names]
    assert case.seg == tmp_path / name / f"{name}{separator}seg{extension}"


def test_cases_come_by_name_and_other_entries_are_passed_over(tmp_path: Path) -> None:
    for number in (12, 3, 100):
        _case_2021(tmp_path, number)
    (tmp_path / "name_mapping.csv").touch()
    (tmp_path / "BraTS2021_00007").touch()  # a file, not a case's folder
    (tmp_path / "notes").mkdir()

    names = [case.name for case in find_cases(tmp_path, RELEASES["brats2021"])]

    assert names == ["BraTS2021_00003", "BraTS2021_00012", "BraTS2021_00100"]


def test_what_may_be_a_case_and_is_passed_over_is_told_with_a_count_and_first_names(tmp_path: Path) -> None:
    _case_2021(tmp_path, 1)
    site = Site("north", "brats2021", str(tmp_path))
    for name in ("name_mapping.csv", "BraTS2021_00001.nii.gz", "BraTS2021_00001-seg.nii", ".hidden.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    assert passed_over_note(site) is None
    for number in range(7):
        (tmp_path / f"brats2021_0000{number}").mkdir()
    (tmp_path / "P07.NII.GZ").touch()
    told = "P07.NII.GZ, brats2021_00000, brats2021_00001, brats2021_00002, brats2021_00003 and 3 more"
    assert passed_over_note(site) == f"site north: ignored, not named as a case of brats2021: {told}"
    chosen = Site("north", "brats2021", str(tmp_path), ("BraTS2021_00001",))
    assert passed_over_note(chosen) is None, "others are left out on purpose"


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """One of them would be used, and nobody would know which."""
    (_case_2021(tmp_path, 1) / "BraTS2021_00001_t1.nii").touch()
    with pytest.raises(DataError, match=r"_t1\.nii\.gz: modality t1 of .* is also in .*_t1\.nii: keep one"):
        find_cases(tmp_path, RELEASES["brats2021"])


def test_follow_up_scans_are_one_patients(tmp_path: Path) -> None:
    for name in ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000"):
        _empty_case(tmp_path, name, _NEW_NAMES, "-")

    patients = [case.patient for case in find_cases(tmp_path, RELEASES["brats2023-gli"])]

    assert patients == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00006"]


def test_the_oddly_named_segmentation_of_2020_is_found_in_its_case_only(tmp_path: Path) -> None:
    for number in (355, 356):
        case = _empty_case(tmp_path, f"BraTS20_Training_{number}", _OLD_NAMES, "_", ".nii")
        (case / f"BraTS20_Training_{number}_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")

    (odd,) = find_cases(tmp_path, RELEASES["brats2020"], only=["BraTS20_Training_355"])
    assert odd.seg.name == "W39_1998.09.19_Segm.nii"
    with pytest.raises(DataError, match="segmentation of case BraTS20_Training_356 is missing"):
        find_cases(tmp_path, RELEASES["brats2020"])


def test_missing_modality_is_refused_naming_the_file(tmp_path: Path) -> None:
    gone = _case_2021(tmp_path, 1) / "BraTS2021_00001_t1ce.nii.gz"
    gone.unlink()
    with pytest.raises(DataError, match=re.escape(f"{gone}: modality t1ce of case BraTS2021_00001 is missing")):
        find_cases(tmp_path, RELEASES["brats2021"])


def test_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no case of brats2021 here: the directory is empty")):
        find_cases(tmp_path, RELEASES["brats2021"])


def test_absent_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'gone'}: no such directory")):
        find_cases(tmp_path / "gone", RELEASES["brats2021"])


def test_another_releases_directory_is_recognised(tmp_path: Path) -> None:
    for number in range(3):
        _case_2021(tmp_path, number)
    with pytest.raises(DataError, match="no case of brats2020 here, but 3 of brats2021: is the release right"):
        find_cases(tmp_path, RELEASES["brats2020"])


def test_directory_of_anything_else_is_refused_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "patient_1").mkdir()
    with pytest.raises(DataError, match="expected folders such as BraTS-GLI-00000-000"):
        find_cases(tmp_path, RELEASES["brats2023-gli"])


def test_only_the_cases_asked_for_are_returned_and_looked_into(tmp_path: Path) -> None:
    for number in range(3):
        _case_2021(tmp_path, number)
    (tmp_path / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz").unlink()
    only = ["BraTS2021_00002", "BraTS2021_00001", "BraTS2021_00002"]

    assert [case.name for case in find_cases(tmp_path, RELEASES["brats2021"], only)] == [
        "BraTS2021_00001",
        "BraTS2021_00002",
    ]


def test_absent_case_that_is_asked_for_is_refused_by_name(tmp_path: Path) -> None:
    _case_2021(tmp_path, 1)
    with pytest.raises(DataError, match="no case BraTS2021_00009 of brats2021 here"):
        find_cases(tmp_path, RELEASES["brats2021"], ["BraTS2021_00001", "BraTS2021_00009"])
