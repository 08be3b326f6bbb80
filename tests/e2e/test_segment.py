"""A run's student segments the cases that it was scored on, and the files have the scores in ``results.json``."""

import csv
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fedserdiff.commands import export as export_command
from fedserdiff.commands import score as score_command
from fedserdiff.commands import segment as segment_command

ROOT = Path(__file__).parents[2]
Command = Callable[..., Result]
TRUTH = {"brats2020": 4, "brats2021": 4, "brats2023-gli": 3}


@pytest.fixture
def segment(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(workplace)
    return lambda *arguments: CliRunner().invoke(segment_command.app, [str(a) for a in arguments])


@pytest.fixture
def export(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(workplace)
    return lambda *arguments: CliRunner().invoke(export_command.app, [str(a) for a in arguments])


def scored_cases(run: Path, site: str) -> tuple[str, Path, list[str]]:
    """Return a site's release, its folder and the names of its test cases."""
    about = next(s for s in json.loads((run / "config.json").read_text())["sites"] if s["name"] == site)
    with (run / "hospitals" / site / "scores.csv").open() as file:
        cases = sorted({row["case"] for row in csv.DictReader(file)})
    return about["release"], Path(about["path"]), cases


def regions(labels: np.ndarray[Any, Any], et: int) -> list[np.ndarray[Any, Any]]:
    return [np.isin(labels, (1, et)), np.isin(labels, (1, 2, et)), labels == et]


def dice(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return 1.0 if not a.any() and not b.any() else 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum()))


@pytest.mark.parametrize("site", ["site-1", "site-2", "site-3"])
def test_dice_of_the_written_files_is_the_runs(
    ser_diff: dict[str, Any], segment: Command, workplace: Path, tmp_path: Path, site: str
) -> None:
    run = workplace / "ser-diff"
    release, folder, cases = scored_cases(run, site)
    done = segment(run, *(folder / case for case in cases), "--out", tmp_path / "out", "--release", release)
    assert done.exit_code == 0, done.output
    scores = []
    for case in cases:
        predicted, truth = (
            nib.load(tmp_path / "out" / f"{case}.nii.gz"),
            nib.load(next((folder / case).glob("*seg.nii.gz"))),
        )
        assert predicted.shape == truth.shape
        np.testing.assert_array_equal(predicted.affine, truth.affine)
        pairs = zip(*(regions(np.asarray(i.dataobj), TRUTH[release]) for i in (predicted, truth)), strict=True)
        scores.append([dice(*pair) for pair in pairs])
    column = ser_diff["sites"].index(site)
    expected = [ser_diff["R"]["dice"][region][-1][column] for region in ("tc", "wt", "et")]
    assert np.mean(scores, 0).tolist() == expected


def test_an_exported_model_writes_the_same_files_with_maps_and_picture_beside_them(
    ser_diff: dict[str, Any], segment: Command, export: Command, workplace: Path, tmp_path: Path
) -> None:
    run, model = workplace / "ser-diff", tmp_path / "m.safetensors"
    _, folder, cases = scored_cases(run, "site-2")
    assert export(run, "--out", model).exit_code == 0
    again = export(run, "--out", model)
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    more = ("--probabilities", "--error-map", "--overlay")
    for source, options, out in ((run, more, "a"), (model, (), "b")):
        done = segment(source, folder / cases[0], *options, "--release", "brats2023-gli", "--out", tmp_path / out)
        assert done.exit_code == 0, done.output
    name = cases[0]
    assert (tmp_path / "a" / f"{name}.nii.gz").read_bytes() == (tmp_path / "b" / f"{name}.nii.gz").read_bytes()
    probabilities = np.asarray(nib.load(tmp_path / "a" / f"{name}-probabilities.nii.gz").dataobj)
    labels = np.asarray(nib.load(tmp_path / "a" / f"{name}.nii.gz").dataobj)
    tc, wt, et = np.moveaxis(probabilities >= 0.5, -1, 0)
    np.testing.assert_array_equal(labels[tc & wt & et] == 3, True)
    assert not labels[~tc & ~wt & ~et].any()
    error = np.asarray(nib.load(tmp_path / "a" / f"{name}-error.nii.gz").dataobj)
    assert error.shape == probabilities.shape
    assert np.abs(error).max() <= 1
    assert (tmp_path / "a" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("ser_diff")
def test_the_readmes_way_from_a_run_to_a_score_works_as_it_is_written(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs", "RUN").symlink_to(workplace / "ser-diff")
    real = os.environ.get("FEDSERDIFF_BRATS")
    _, phantoms, cases = scored_cases(workplace / "ser-diff", "site-2")
    case = Path(real, "BraTS2021", "BraTS2021_00000") if real else phantoms / cases[0]
    truth = Path("data", "BraTS2021", "BraTS2021_00000")
    truth.mkdir(parents=True)
    for file in case.iterdir():
        (truth / file.name.replace(case.name, truth.name)).symlink_to(file)
    text = (ROOT / "README.md").read_text()
    block = text[text.index("## Segmentation and scoring") :].split("```bash\n")[1].split("```")[0]
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [words[1] for words in commands] == ["scripts/segment.py", "scripts/score.py"]
    for (_, _, *arguments), module in zip(commands, (segment_command, score_command), strict=True):
        done = CliRunner().invoke(module.app, arguments)
        assert done.exit_code == 0, done.output
    scores = json.loads(Path("scores.json").read_text())
    assert scores["cases"] == 1
    labels, true = (
        np.asarray(nib.load(next(folder.glob(f"{truth.name}{end}.nii*"))).dataobj)
        for folder, end in ((Path("segmentations"), ""), (truth, "_seg"))
    )
    for region, *pair in zip(("tc", "wt", "et"), regions(labels, 4), regions(true, 4), strict=True):
        assert scores["means"][region]["dice"] == pytest.approx(dice(*pair))


def test_a_student_behind_adapters_sees_scans_as_their_hospital_does_and_asks_whose_they_are(
    run: Callable[..., dict[str, Any]], segment: Command, export: Command, workplace: Path, tmp_path: Path
) -> None:
    results = run("plus", "--sites", "2", "--method", "ser-diff-plus")
    folder = workplace / "plus"
    release, scans, cases = scored_cases(folder, "site-2")
    unnamed = segment(folder, scans / cases[0], "--out", tmp_path / "no")
    assert unnamed.exit_code == 1
    assert "needs to know the hospital that scans come from; give one of site-1, site-2" in unnamed.stderr
    stranger = segment(folder, scans / cases[0], "--site", "site-9", "--out", tmp_path / "no")
    assert "'site-9' is not a site of" in stranger.stderr

    assert segment(folder, scans / cases[0], "--site", "site-2", "--out", tmp_path / "own").exit_code == 0
    labels = np.asarray(nib.load(tmp_path / "own" / f"{cases[0]}.nii.gz").dataobj)
    truth = np.asarray(nib.load(next((scans / cases[0]).glob("*seg.nii.gz"))).dataobj)
    et = TRUTH[release]
    found = [dice(*pair) for pair in zip(regions(labels, et), regions(truth, et), strict=True)]
    assert found == [results["R"]["dice"][region][-1][1] for region in ("tc", "wt", "et")]

    robbed = shutil.copytree(folder, tmp_path / "robbed")
    (robbed / "hospitals" / "site-2" / "adapter-2-2.pt").unlink()  # that of the first round stays
    for call, out in ((segment, "no"), (export, "no.safetensors")):
        scan = [scans / cases[0]] if call is segment else []
        lost = call(robbed, *scan, "--site", "site-2", "--out", tmp_path / out)
        assert lost.exit_code == 1
        assert "adapter-2-2.pt: is missing. site-2 trained with it" in lost.stderr
        assert not (tmp_path / out).exists()

    # As a deployed federation is: the coordinator has no hospital's adapter, and hands on a model without.
    away = tmp_path / "coordinator"
    shutil.copytree(folder, away, ignore=shutil.ignore_patterns("hospitals"))
    model = tmp_path / "site-2.safetensors"
    here = segment(away, scans / cases[0], "--site", "site-2", "--out", tmp_path / "no")
    assert here.exit_code == 1
    assert "with an adapter that stays at site-2" in here.stderr
    assert "adapter: none" in export(away, "--site", "site-1", "--out", tmp_path / "first.safetensors").output
    assert "stays at the hospital" in export(away, "--site", "site-2", "--out", model).output
    alone = segment(model, scans / cases[0], "--out", tmp_path / "no")
    assert alone.exit_code == 1
    assert "with an adapter that stays at site-2" in alone.stderr
    kept = folder / "hospitals" / "site-2"
    assert segment(model, scans / cases[0], "--site", kept, "--out", tmp_path / "with").exit_code == 0
    name = f"{cases[0]}.nii.gz"
    assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


def test_every_patient_that_is_given_is_segmented_or_named(
    ser_diff: dict[str, Any], segment: Command, workplace: Path, tmp_path: Path
) -> None:
    """Under names as people give them, one of them no UTF-8, beside a patient with a damaged scan and one with none."""
    _, folder, cases = scored_cases(workplace / "ser-diff", "site-2")
    suffixes = {"t1": "T1", "t1ce": "T1CE", "t2": "T2", "flair": "FLAIR"}
    no_text = os.fsdecode(b"Patient_M\xfcller")
    named = {"P01": "P01_{}", "P02": "patient2_{}", no_text: no_text + "_{}", "damaged": "damaged_{}"}
    for patient, pattern in named.items():
        (tmp_path / "given" / patient).mkdir(parents=True)
        for old, new in suffixes.items():
            (source,) = (folder / cases[0]).glob(f"*_{old}.nii*")
            target = pattern.format(new if patient == "P02" else old)
            shutil.copy(source, tmp_path / "given" / patient / (target + "".join(source.suffixes)))
    next((tmp_path / "given" / "damaged").glob("*_flair*")).write_bytes(b"no scan")
    (tmp_path / "given" / "empty").mkdir()

    done = segment("ser-diff", tmp_path / "given", "--overlay", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "3 label maps in" in done.stdout
    error = done.stderr.strip()
    assert len(error.splitlines()) == 1
    assert f"not segmented: {tmp_path / 'given' / 'empty'}: is empty; " in error
    assert f"{tmp_path / 'given' / 'damaged' / 'damaged_flair'}" in error
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {f"{name}{end}" for name in ("P01", "P02", no_text) for end in (".nii.gz", ".png")}

    one = segment("ser-diff", tmp_path / "given" / no_text, "--out", tmp_path / "again")
    assert one.exit_code == 0, one.output
    again, before = (tmp_path / out / f"{no_text}.nii.gz" for out in ("again", "out"))
    assert again.read_bytes() == before.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent", "x"), "absent: cannot be read as a model"),
        ((".", "x"), "is not the directory of a run"),
        (("ser-diff", "nowhere"), "nowhere: cannot be read"),
        (("ser-diff",), "give either scans, or --image"),
        (("ser-diff", "x", "--image", "t1=a", "--name", "b"), "give either scans, or --image"),
        (("ser-diff", "--image", "t1=a", "--name", "b"), "the model needs t1, t1ce, t2, flair: no t1ce, t2, flair"),
        (("ser-diff", "--image", "t1", "--name", "b"), "'t1' is not MODALITY=FILE"),
        (("ser-diff", "--image", "t1=a", "--name", "../b"), "cannot be used as a file name"),
        (("ser-diff", "x", "--release", "brats1"), "unknown release 'brats1'"),
        (("ser-diff", "x", "--device", "tpu"), "--device: 'tpu'"),
    ],
)
def test_a_mistake_is_one_line(
    ser_diff: dict[str, Any], segment: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = segment(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_is_written_already_is_not_written_over(
    ser_diff: dict[str, Any], segment: Command, workplace: Path, tmp_path: Path
) -> None:
    _, folder, cases = scored_cases(workplace / "ser-diff", "site-1")
    (tmp_path / f"{cases[0]}.nii.gz").write_text("kept")
    done = segment("ser-diff", folder / cases[0], "--out", tmp_path)
    assert done.exit_code == 1
    assert f"already has a segmentation of {cases[0]}" in done.stderr
    assert (tmp_path / f"{cases[0]}.nii.gz").read_text() == "kept"
