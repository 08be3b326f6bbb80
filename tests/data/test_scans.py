"""Scans to segment are found by file name in the style of any tool; other files are named."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from fedserdiff.data.scans import FoundScans, Scan, find_scans, named_scan
from fedserdiff.errors import DataError

MODALITIES = ("t1", "t1ce", "t2", "flair")
PROSTATE = {"T2": 0, "ADC": 1}


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def case(folder: Path, name: str, suffixes: tuple[str, ...] = MODALITIES, separator: str = "_") -> Path:
    return touch(folder, *(f"{name}{separator}{suffix}.nii.gz" for suffix in suffixes))


def scans(
    *paths: Path, modalities: tuple[str, ...] = MODALITIES, channels: Mapping[str, int] | None = None
) -> list[Scan]:
    """What is found where nothing is left."""
    found = find_scans(paths, modalities, channels or {})
    assert found.left == found.unread == []
    return found.scans


def names(found: FoundScans) -> list[str]:
    return [scan.name for scan in found.scans]


@pytest.mark.parametrize(
    ("suffixes", "separator", "extension"),
    [(MODALITIES, "_", ".nii"), (MODALITIES, "_", ".nii.gz"), (("t1n", "t1c", "t2w", "t2f"), "-", ".nii.gz")],
)
def test_a_case_of_any_name_is_one_scan_in_the_models_order(
    tmp_path: Path, suffixes: tuple[str, ...], separator: str, extension: str
) -> None:
    files = [f"patient 7{separator}{suffix}{extension}" for suffix in suffixes]
    folder = touch(tmp_path / "cases" / "patient 7", *reversed(files), "notes.txt")
    touch(tmp_path / "cases" / "tables", "list.csv")
    touch(tmp_path / "cases", "survival_info.csv", "README.md")
    for path in (folder, tmp_path / "cases"):
        (scan,) = scans(path)
        assert scan.name == "patient 7"
        assert [file.name for file in scan.images] == files
        assert scan.channels == ()
    (flair,) = scans(folder, modalities=("flair",))
    assert [file.name for file in flair.images] == files[-1:]


def test_folders_whose_files_are_called_otherwise_are_scans_too(tmp_path: Path) -> None:
    case(tmp_path / "P01", "P01")
    case(tmp_path / "P02", "patient2")
    case(tmp_path / "P03", "P03", ("T1", "T1CE", "T2", "FLAIR"))
    touch(tmp_path / "P04", "T1.nii.gz", "t1ce.nii.gz", "t2.nii", "Flair.NII.GZ")
    found = scans(tmp_path)
    assert [scan.name for scan in found] == ["P01", "P02", "P03", "P04"]
    assert [file.name for file in found[2].images] == [f"P03_{s}.nii.gz" for s in ("T1", "T1CE", "T2", "FLAIR")]
    assert [file.name for file in found[3].images] == ["T1.nii.gz", "t1ce.nii.gz", "t2.nii", "Flair.NII.GZ"]
    assert scans(tmp_path / "P02") == found[1:2], "a scan has its name however it is given"
    assert scans(*sorted((tmp_path / "P01").iterdir())) == found[:1], "as a shell's pattern gives it"


def test_one_folder_may_hold_the_files_of_many(tmp_path: Path) -> None:
    for name in ("A", "B-2"):
        case(tmp_path / "all", name)
    case(tmp_path / "all" / "C", "C")
    assert [scan.name for scan in scans(tmp_path / "all")] == ["A", "B-2", "C"]


def test_a_segmentation_is_not_needed_and_a_missing_modality_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "x", "x_t1.nii.gz", "x_t2.nii.gz", "x_flair.nii.gz", "x_seg.nii.gz")
    with pytest.raises(DataError, match=r"x_t1ce\.nii\.gz: modality t1ce of scan x is missing"):
        find_scans([folder], MODALITIES, {})


def test_what_may_be_a_patient_and_is_no_scan_is_named_with_the_reason(tmp_path: Path) -> None:
    """Beside one sound scan; nothing that was given is passed over in silence."""
    case(tmp_path / "good", "good")
    case(tmp_path / "lacks", "lacks", ("t1n", "t1c", "t2w"), "-")
    touch(case(tmp_path / "twins", "twins"), "twins_t2.nii")
    touch(case(tmp_path / "both", "both"), "both-t1n.nii.gz")
    touch(tmp_path / "strange", "strange_dwi.nii.gz", "strange_swi.nii.gz", "a.nii.gz", "b.nii.gz")
    touch(tmp_path / "dicom", "IM0001", "IM0002")
    (tmp_path / "nothing").mkdir()
    case(tmp_path / "deep" / "ses-1", "deep")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "gone")
    (case(tmp_path / "unlinked", "unlinked", MODALITIES[1:]) / "unlinked_t1.nii.gz").symlink_to(tmp_path / "gone.nii")
    touch(tmp_path, "other.nrrd", "._good_t1.nii.gz", ".DS_Store", "read.me")
    touch(tmp_path / "__MACOSX", "._x.nii.gz")
    found = find_scans([tmp_path], MODALITIES, {})
    assert names(found) == ["good"]
    expected = {
        "lacks/lacks-t2f.nii.gz": "modality flair of scan lacks is missing",
        "twins/twins_t2.nii": "modality t2 of scan twins is also in twins_t2.nii.gz: keep one",
        "both/both-t1n.nii.gz": "modality t1 of scan both is also in both_t1.nii.gz: keep one",
        "strange": "a.nii.gz, b.nii.gz, strange_dwi.nii.gz and 1 more: not named as a modality of the model: "
        "expected files NAME_t1.nii.gz, NAME_t1ce.nii.gz, NAME_t2.nii.gz, NAME_flair.nii.gz, or name each with --image",
        "dicom": "holds no NIfTI file, but IM0001, IM0002",
        "nothing": "is empty",
        "deep/ses-1": "nested too deeply to be searched: give its path instead",
        "elsewhere": "a symbolic link to a missing file",
        "unlinked/unlinked_t1.nii.gz": "a symbolic link to a missing file",
        "other.nrrd": "not a NIfTI file",
    }
    assert sorted(found.left) == sorted(f"{tmp_path / where}: {why}" for where, why in expected.items())


def test_further_images_of_a_scan_are_told_and_no_reason_to_stop(tmp_path: Path) -> None:
    folder = touch(case(tmp_path / "x", "x"), "x_dwi.nii.gz", "brainmask.nii.gz", "x_seg.nii.gz")
    found = find_scans([folder], MODALITIES, {})
    assert (names(found), found.left) == (["x"], [])
    assert [file.name for file in found.unread] == ["brainmask.nii.gz", "x_dwi.nii.gz"]
    flat = touch(case(tmp_path / "flat", "P1"), "P1_dwi.nii.gz", "P10.nii.gz")
    found = find_scans([flat], MODALITIES, {})
    assert [file.name for file in found.unread] == ["P1_dwi.nii.gz"]
    assert found.left[0].startswith(f"{flat}: P10.nii.gz: "), "this may be another patient's"


def test_numbered_files_and_4d_files_go_by_the_datasets_numbers(tmp_path: Path) -> None:
    split = touch(tmp_path / "split", *(f"p_{n}_000{c}.nii.gz" for n in (2, 1) for c in (0, 1)))
    whole = touch(tmp_path / "whole", "p_2.nii.gz", "p_1.nii", "._p_1.nii")
    first, second = scans(split, modalities=("ADC", "T2"), channels=PROSTATE)
    assert (first.name, second.name) == ("p_1", "p_2")
    assert [file.name for file in first.images] == ["p_1_0001.nii.gz", "p_1_0000.nii.gz"]
    assert [(scan.name, scan.channels) for scan in scans(whole, modalities=("ADC", "T2"), channels=PROSTATE)] == [
        ("p_1", (1, 0)),
        ("p_2", (1, 0)),
    ]
    (one,) = scans(whole / "p_2.nii.gz", modalities=("ADC", "T2"), channels=PROSTATE)
    assert one.images == (whole / "p_2.nii.gz",) * 2
    assert scans(*split.iterdir(), modalities=("ADC", "T2"), channels=PROSTATE) == [first, second]
    touch(split, "p_3.nii.gz", "p_4_0001.nii.gz")
    found = find_scans([split], ("ADC", "T2"), PROSTATE)
    assert names(found) == ["p_1", "p_2", "p_3"]
    assert found.left == [f"{split / 'p_4_0000.nii.gz'}: modality T2 of scan p_4 is missing"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["liver_0000", "liver_0001", "liver_0003"], ["liver_0000", "liver_0001", "liver_0003"]),
        (["liver_001_0000", "liver_002_0000"], ["liver_001", "liver_002"]),
        (["liver_0003"], ["liver_0003"]),
        (["liver_0000", "liver"], ["liver", "liver_0000"]),
        (["colon_0000", "liver_0000", "liver_0001"], ["colon_0000", "liver_0000", "liver_0001"]),
    ],
)  # fmt: skip
def test_a_number_that_is_no_modalitys_is_a_patients(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    folder = touch(tmp_path, *(f"{file}.nii.gz" for file in files))
    found = scans(folder, modalities=("CT",), channels={"CT": 0})
    assert [scan.name for scan in found] == expected
    assert sorted(scan.images[0].name for scan in found) == sorted(f"{file}.nii.gz" for file in files)


def test_four_patients_of_two_modalities_in_4d_files_are_four_scans(tmp_path: Path) -> None:
    folder = touch(tmp_path, *(f"men_{number:04d}.nii.gz" for number in range(4)))
    found = scans(folder, modalities=("T2", "ADC"), channels=PROSTATE)
    assert [(scan.name, scan.channels) for scan in found] == [(f"men_{n:04d}", (0, 1)) for n in range(4)]


def test_where_no_scan_is_it_is_said_what_was_expected(tmp_path: Path) -> None:
    empty = touch(tmp_path / "empty")
    with pytest.raises(DataError, match=r"empty: no scan here: expected files NAME_t1\.nii\.gz, NAME_t1ce"):
        find_scans([empty], MODALITIES, {})
    single = touch(tmp_path / "single", "a.nii.gz")
    with pytest.raises(DataError, match=r"a\.nii\.gz: not named as a modality of the model: .* with --image"):
        find_scans([single / "a.nii.gz"], MODALITIES, {})
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        find_scans([tmp_path / "nowhere"], MODALITIES, {})
    truths = touch(tmp_path / "truths", "x_seg.nii.gz", "W39_1998.09.19_Segm.nii")
    with pytest.raises(DataError, match="truths: holds only segmentations"):
        find_scans([truths], MODALITIES, {})
    found = find_scans(
        [case(tmp_path / "good", "good"), empty, touch(tmp_path, "list.txt") / "list.txt"], MODALITIES, {}
    )
    assert names(found) == ["good"]
    assert [why.partition(": ")[0] for why in found.left] == [str(empty), str(tmp_path / "list.txt")]


def test_modalities_given_one_by_one_are_the_models_and_all_of_them(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in reversed(MODALITIES)}
    assert named_scan("x", files, MODALITIES).images == tuple(tmp_path / name for name in MODALITIES)
    with pytest.raises(DataError, match="scan x: the model needs t1, t1ce, t2, flair: no t2"):
        named_scan("x", {name: file for name, file in files.items() if name != "t2"}, MODALITIES)
    with pytest.raises(DataError, match="dwi is not one of them"):
        named_scan("x", files | {"dwi": tmp_path}, MODALITIES)
