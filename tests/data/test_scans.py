"""Scans to segment are found by their files' names, whoever made them."""

from pathlib import Path

import pytest

from fedserdiff.data.scans import find_scans, named_scan
from fedserdiff.errors import DataError

MODALITIES = ("t1", "t1ce", "t2", "flair")


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("suffixes", "separator", "extension"),
    [(MODALITIES, "_", ".nii"), (MODALITIES, "_", ".nii.gz"), (("t1n", "t1c", "t2w", "t2f"), "-", ".nii.gz")],
)
def test_a_case_of_any_name_is_one_scan_in_the_models_order(
    tmp_path: Path, suffixes: tuple[str, ...], separator: str, extension: str
) -> None:
    files = [f"patient 7{separator}{suffix}{extension}" for suffix in suffixes]
    case = touch(tmp_path / "cases" / "patient 7", *reversed(files), "notes.txt")
    touch(tmp_path / "cases" / "tables", "list.csv")
    for path in (case, tmp_path / "cases"):
        (scan,) = find_scans(path, MODALITIES, {})
        assert scan.name == "patient 7"
        assert [file.name for file in scan.images] == files
        assert scan.channels == ()
    (flair,) = find_scans(case, ("flair",), {})
    assert [file.name for file in flair.images] == files[-1:]


def test_a_segmentation_is_not_needed_and_a_missing_modality_is_named(tmp_path: Path) -> None:
    case = touch(tmp_path / "x", "x_t1.nii.gz", "x_t2.nii.gz", "x_flair.nii.gz", "x_seg.nii.gz")
    with pytest.raises(DataError, match=r"x_t1ce\.nii\.gz: modality t1ce of scan x is missing"):
        find_scans(case, MODALITIES, {})


def test_numbered_files_and_4d_files_go_by_the_datasets_numbers(tmp_path: Path) -> None:
    numbers = {"T2": 0, "ADC": 1}
    split = touch(tmp_path / "split", *(f"p_{n}_000{c}.nii.gz" for n in (2, 1) for c in (0, 1)))
    whole = touch(tmp_path / "whole", "p_2.nii.gz", "p_1.nii", "._p_1.nii")
    first, second = find_scans(split, ("ADC", "T2"), numbers)
    assert (first.name, second.name) == ("p_1", "p_2")
    assert [file.name for file in first.images] == ["p_1_0001.nii.gz", "p_1_0000.nii.gz"]
    assert [(scan.name, scan.channels) for scan in find_scans(whole, ("ADC", "T2"), numbers)] == [
        ("p_1", (1, 0)),
        ("p_2", (1, 0)),
    ]
    (one,) = find_scans(whole / "p_2.nii.gz", ("ADC", "T2"), numbers)
    assert one.images == (whole / "p_2.nii.gz",) * 2


def test_where_no_scan_is_it_is_said_what_was_expected(tmp_path: Path) -> None:
    empty = touch(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no scan here: expected a folder NAME of files NAME_t1\.nii\.gz, NAME_t1ce"):
        find_scans(empty, MODALITIES, {})
    single = touch(tmp_path / "single", "a.nii.gz")
    with pytest.raises(DataError, match=r"a\.nii\.gz: one file: the model needs t1, t1ce, t2, flair"):
        find_scans(single / "a.nii.gz", MODALITIES, {})
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        find_scans(tmp_path / "nowhere", MODALITIES, {})


def test_modalities_given_one_by_one_are_the_models_and_all_of_them(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in reversed(MODALITIES)}
    assert named_scan("x", files, MODALITIES).images == tuple(tmp_path / name for name in MODALITIES)
    with pytest.raises(DataError, match="scan x: the model needs t1, t1ce, t2, flair: no t2"):
        named_scan("x", {name: file for name, file in files.items() if name != "t2"}, MODALITIES)
    with pytest.raises(DataError, match="dwi is none of them"):
        named_scan("x", files | {"dwi": tmp_path}, MODALITIES)
