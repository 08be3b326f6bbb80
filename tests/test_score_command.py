"""What ``scripts/score.py`` says about predicted label maps, and what it refuses to score."""

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from typer.testing import CliRunner

from fedserdiff.commands import score as score_command

FOLDER = os.environ.get("FEDSERDIFF_BRATS")
SHAPE = (40, 36, 30)
AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1, 0, 30], [0, 0, 1.5, -10], [0, 0, 0, 1]])
CASES = [f"BraTS-GLI-{number:05d}-000" for number in (3, 5, 9)]
Score = Callable[..., str]


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Score folder ``p`` against folder ``t`` by ``score.py`` in this process; return what it says."""
    monkeypatch.chdir(tmp_path)

    def call(*options: str, fails: bool = False, release: str = "brats2023-gli") -> str:
        result = CliRunner().invoke(
            score_command.app, ["p", "t", "--release", release, *options], env={"COLUMNS": "200"}
        )
        assert result.exit_code == fails, result.output
        assert fails == isinstance(result.exception, SystemExit), result.exception
        assert result.output.count("error:") == fails
        return result.output

    return call


def label_map(number: int) -> NDArray[np.uint8]:
    """Oedema with a core in it, and a rim on one side of that; the third case has no rim."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[10 : 22 + number, 8:22, 6:20] = 2
    labels[12:20, 10:18, 8:16] = 1
    if number < 2:
        labels[12:20, 10:18, 8:11] = 3
    return labels


def write(path: Path, labels: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions as a submission, the truth as the release: three cases, all of them right."""
    for number, case in enumerate(CASES):
        write(tmp_path / "t" / case / f"{case}-seg.nii.gz", label_map(number))
        write(tmp_path / "p" / f"{case}.nii.gz", label_map(number))
    return tmp_path / "p", tmp_path / "t"


def row(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]
    return next(cells for cells in rows if cells and cells[0] == first)


def table(folder: Path, name: str = "scores.csv") -> dict[tuple[str, str], dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return {(line.pop("case"), line.pop("region")): line for line in csv.DictReader(file)}


def test_perfect_predictions(score: Score, folders: tuple[Path, Path], tmp_path: Path) -> None:
    text = score()
    for region in ("TC", "WT", "ET", "mean"):
        assert row(text, region)[1:] == ["100.0", "0.0", "100.0", "0.0", "3"], "no rim and none predicted is right, too"
    assert "Means over 3 cases of brats2023-gli" in text
    assert list(table(tmp_path)) == [(case, region) for case in CASES for region in ("tc", "wt", "et")]
    assert table(tmp_path)[CASES[2], "et"]["lesions_found"] == "0"


def test_scores_are_those_of_the_masks(score: Score, folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, _ = folders
    moved = np.roll(label_map(0), 2, axis=0)
    moved[35, 30, 25] = 3
    write(predictions / f"{CASES[0]}.nii.gz", moved)
    write(predictions / f"{CASES[1]}.nii.gz", np.where(label_map(1) == 3, 1, label_map(1)))
    score("--out", "told/here.csv")

    found = table(tmp_path / "told", "here.csv")
    first = {name: float(value) for name, value in found[CASES[0], "wt"].items()}
    size, overlap = 12 * 14 * 14, 10 * 14 * 14
    assert first["dice"] == pytest.approx(2 * overlap / (2 * size + 1))
    assert first["lesion_dice"] == pytest.approx(overlap / size / 2), (
        "the lesion and the spurious voxel, on equal terms"
    )
    assert first["hd95"] == pytest.approx(2)
    assert first["lesion_hd95"] == pytest.approx((2 + 374) / 2)
    assert [first[f"lesions_{kind}"] for kind in ("found", "missed", "spurious")] == [1, 0, 1]
    rim = {name: float(value) for name, value in found[CASES[1], "et"].items()}
    farthest = float(np.linalg.norm(np.array(SHAPE) * [1, 1, 1.5]))
    assert [rim["dice"], rim["hd95"], rim["lesion_dice"], rim["lesion_hd95"]] == pytest.approx([0, farthest, 0, 374])

    told = json.loads((tmp_path / "told" / "here.json").read_text())
    assert (told["release"], told["cases"]) == ("brats2023-gli", 3)
    for measure in ("dice", "hd95", "lesion_dice", "lesion_hd95"):
        means = {
            region: np.mean([float(found[case, region][measure]) for case in CASES]) for region in ("tc", "wt", "et")
        }
        means["mean"] = np.mean(list(means.values()))
        assert {region: told["means"][region][measure] for region in told["means"]} == pytest.approx(means)


@pytest.mark.parametrize("given", ["{case}.nii", "{case}-seg.nii.gz", "{case}/{case}-seg.nii.gz"])
@pytest.mark.parametrize("true", ["{case}.nii.gz", "{case}-seg.nii", "{case}/{case}-seg.nii"])
def test_either_folder_may_be_flat_or_have_case_folders(score: Score, tmp_path: Path, given: str, true: str) -> None:
    for folder, name in (("p", given), ("t", true)):
        write(tmp_path / folder / name.format(case=CASES[0]), label_map(0))
    write(tmp_path / "t" / f"{CASES[0]}-t1c.nii.gz", label_map(0))
    (tmp_path / "p" / "read me.txt").touch()
    assert row(score(), "mean")[1:] == ["100.0", "0.0", "100.0", "0.0", "1"]


def test_labels_are_read_by_the_release(score: Score, tmp_path: Path) -> None:
    labels = label_map(0)
    write(tmp_path / "t" / "BraTS2021_00003" / "BraTS2021_00003_seg.nii.gz", np.where(labels == 3, 4, labels))
    write(tmp_path / "p" / "BraTS2021_00003.nii.gz", np.where(labels == 3, 4, labels))
    assert row(score(release="brats2021"), "ET")[1] == "100.0"
    assert "choose one of brats2017" in score(release="brats2022", fails=True)
    assert "but 1 of brats2021: is the release right?" in score(release="brats2023-gli", fails=True)


def test_regions_of_another_organ_are_those_that_the_truth_declares(score: Score, tmp_path: Path) -> None:
    declared = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "gland": [1, 2], "TZ": 2}}
    write(tmp_path / "t" / "labelsTr" / "case_1.nii.gz", label_map(0) % 3)
    (tmp_path / "t" / "dataset.json").write_text(json.dumps(declared))
    write(tmp_path / "p" / "case_1.nii.gz", np.where(label_map(0) == 2, 0, label_map(0) % 3).astype(np.uint8))
    write(tmp_path / "p" / "case_1-probabilities.nii.gz", np.zeros((*SHAPE, 2), np.float32))
    write(tmp_path / "p" / "case_2.nii.gz", label_map(0) % 3)

    said = score(release="msd")

    assert "t has no truth for them: case_2" in said
    scores = table(tmp_path)
    assert set(scores) == {("case_1", "gland"), ("case_1", "TZ")}
    ones, all_ = int((label_map(0) % 3 == 1).sum()), int((label_map(0) % 3 > 0).sum())
    assert float(scores["case_1", "gland"]["dice"]) == pytest.approx(2 * ones / (ones + all_))
    assert float(scores["case_1", "TZ"]["dice"]) == 0
    (tmp_path / "t" / "dataset.json").unlink()
    assert "dataset.json: is missing" in score(release="msd", fails=True)


def test_a_prediction_stored_along_other_axes_is_the_same(
    score: Score, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    path = folders[0] / f"{CASES[0]}.nii.gz"
    image = nib.load(path)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(("S", "R", "A")))
    turned = image.as_reoriented(turn)
    assert turned.shape != image.shape
    write(path, np.asarray(turned.dataobj), turned.affine)
    assert row(score(), "mean")[1:] == ["100.0", "0.0", "100.0", "0.0", "3"]


def test_a_missing_prediction_is_not_passed_over(score: Score, folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[0] / f"{CASES[1]}.nii.gz").unlink()
    text = score(fails=True)
    assert f"no prediction for 1 of the 3 cases in t: {CASES[1]}: --allow-missing" in text
    assert not list(tmp_path.glob("scores*"))

    text = score("--allow-missing")
    assert f"p has no prediction for them: {CASES[1]}" in text
    assert "Means over 2 cases of brats2023-gli, of 3" in text
    told = json.loads((tmp_path / "scores.json").read_text())
    assert (told["cases"], told["without_prediction"]) == (2, [CASES[1]])
    assert {case for case, _ in table(tmp_path)} == {CASES[0], CASES[2]}


def test_a_prediction_without_truth_is_told(score: Score, folders: tuple[Path, Path], tmp_path: Path) -> None:
    write(folders[0] / "BraTS-GLI-77777-000.nii.gz", label_map(0))
    text = score()
    assert "t has no truth for them: BraTS-GLI-77777-000" in text
    assert row(text, "mean")[-1] == "3"
    assert json.loads((tmp_path / "scores.json").read_text())["without_truth"] == ["BraTS-GLI-77777-000"]


def test_label_maps_that_are_not_named_as_cases_are_told(
    score: Score, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """In the predictions and in the truth; what segment writes beside a label map is no label map."""
    beside = f"{CASES[0]}-probabilities.nii.gz"
    for path in (f"p/{beside}", "p/P07.nii.gz", "t/brats-gli-00003-000/brats-gli-00003-000-seg.nii.gz"):
        write(tmp_path / path, label_map(0))
    (tmp_path / "p" / "notes.txt").touch()
    text = score()
    assert "Not scored because the names in p are not case names of brats2023-gli: P07.nii.gz\n" in text
    assert "Not scored because the names in t are not case names of brats2023-gli: brats-gli-00003-000\n" in text
    told = json.loads((tmp_path / "scores.json").read_text())
    assert told["passed_over"] == {"p": ["P07.nii.gz"], "t": ["brats-gli-00003-000"]}


def test_folders_of_different_cases_have_no_mean(score: Score, tmp_path: Path) -> None:
    write(tmp_path / "t" / f"{CASES[0]}.nii.gz", label_map(0))
    write(tmp_path / "p" / f"{CASES[1]}.nii.gz", label_map(0))
    text = score("--allow-missing", fails=True)
    assert f"t has no truth for them: {CASES[1]}" in text
    assert f"no prediction for 1 of the 1 cases in t: {CASES[0]}\n" in text


def test_many_missing_predictions_are_named_in_one_bearable_line(score: Score, tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / "t" / f"BraTS-GLI-{number:05d}-000.nii.gz", label_map(0))
    write(tmp_path / "p" / "BraTS-GLI-00000-000.nii.gz", label_map(0))
    text = score(fails=True)
    assert "no prediction for 29 of the 30 cases" in text
    assert "BraTS-GLI-00020-000 and 9 more: --allow-missing" in text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: write(path, label_map(0)[1:]), "differs from"),
        (lambda path: write(path, label_map(0), np.eye(4)), "affine differs from"),
        (
            lambda path: write(path, np.where(label_map(0) == 3, 4, label_map(0))),
            "label 4 is not one of brats2023-gli's",
        ),
        (lambda path: write(path, label_map(0) * np.float32(0.5)), "labels are not whole numbers"),
        (cut, "truncated or damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "a directory: a NIfTI file is expected"),
    ],
)
@pytest.mark.parametrize("side", ["p", "t"])
def test_a_file_that_cannot_be_scored_is_named(
    score: Score, folders: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], object], reason: str, side: str
) -> None:
    path = {"p": f"p/{CASES[1]}.nii.gz", "t": f"t/{CASES[1]}/{CASES[1]}-seg.nii.gz"}[side]
    spoil(tmp_path / path)
    text = score(fails=True)
    assert reason in text
    assert Path(path).name in text
    assert not list(tmp_path.glob("scores*"))


def test_two_predictions_of_one_case_are_refused(score: Score, folders: tuple[Path, Path]) -> None:
    write(folders[0] / f"{CASES[0]}-seg.nii.gz", label_map(0))
    text = score(fails=True)
    assert f"a second segmentation of case {CASES[0]}" in text
    assert f"p/{CASES[0]}.nii.gz" in text


@pytest.mark.parametrize(("folder", "words"), [("p", "the directory is empty"), ("t", "no such directory")])
def test_a_folder_without_label_maps(
    score: Score, folders: tuple[Path, Path], tmp_path: Path, folder: str, words: str
) -> None:
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    if folder == "p":
        (tmp_path / folder).mkdir()
    assert words in score(fails=True)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "patient 7.nii.gz").touch()
    assert "expected files such as BraTS-GLI-00000-000.nii.gz" in score(fails=True)


@pytest.mark.parametrize("out", ["scores.json", "scores", "."])
def test_scores_go_to_a_csv_file(score: Score, folders: tuple[Path, Path], out: str) -> None:
    assert "name a .csv file" in score("--out", out, fails=True)


@pytest.mark.skipif(FOLDER is None, reason="FEDSERDIFF_BRATS names no folder of real BraTS cases")
def test_a_published_segmentation_is_right_by_its_own_score(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FOLDER is not None
    (tmp_path / "t").symlink_to(Path(FOLDER).resolve() / "BraTS2023-GLI")
    (tmp_path / "p").mkdir()
    seg = tmp_path / "t" / "BraTS-GLI-00000-000" / "BraTS-GLI-00000-000-seg.nii.gz"
    image = nib.load(seg)  # to write as a submission: of another type, flat, under another name
    write(tmp_path / "p" / f"{seg.parent.name}.nii.gz", np.asarray(image.dataobj).astype(np.uint8), image.affine)
    text = score("--allow-missing")
    for region in ("TC", "WT", "ET", "mean"):
        assert row(text, region)[1:] == ["100.0", "0.0", "100.0", "0.0", "1"]
    assert "Means over 1 case of brats2023-gli, of 3" in text
