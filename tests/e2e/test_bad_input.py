"""Each mistake gives one clear message with file and field, exit code 1, no traceback and no half-written file."""

import csv
import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from fedserdiff.commands import compare, simulate
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.split import split_patients
from fedserdiff.errors import FederationError
from fedserdiff.experiments.run_pool import RunPool
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def command() -> Callable[..., str]:
    """Call the command line in this process; return what it says when it fails as it should."""

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(simulate.app, ["--profile", "smoke", *arguments])
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert result.output.count("error:") == 1
        return result.output

    return call


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good 2023 hospital of three patients and a federation file for it, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    folder = write_phantom_hospital(tmp_path / "phantom", "contrast", 2, patients=3, spacing_mm=8.0, seed=0)
    folder.rename(tmp_path / "data")
    (tmp_path / "federation.toml").write_text('[[site]]\nname = "west"\nrelease = "brats2023-gli"\npath = "data"\n')
    return tmp_path / "data"


def case_of(hospital: Path) -> Path:
    return sorted(hospital.iterdir())[1]


def file_of(hospital: Path, channel: str) -> Path:
    case = case_of(hospital)
    return case / f"{case.name}-{channel}.nii.gz"


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        changed = voxels.astype(np.float32)
        changed[5, 5, 5] = value
        return changed

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def declare_many_voxels(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[42:48] = b"\xff\x7f" * 3  # 32767 along each axis
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("channel", "damage", "says"),
    [
        ("t2f", lambda p: p.unlink(), "modality flair"),
        ("seg", lambda p: p.unlink(), "segmentation"),
        ("t1c", lambda p: edit(p, lambda v: v[:-1]), "shape"),
        ("t2w", lambda p: edit(p, with_value(float("nan"))), "NaN"),
        ("t1n", truncate, "truncated"),
        ("t1n", lambda p: p.write_bytes(gzip.compress(b"not a scan")), "not a readable NIfTI"),
        ("seg", lambda p: edit(p, with_value(4)), "label 4"),
        ("t2w", become_a_pipe, "a named pipe"),
        ("t1n", declare_many_voxels, "more than 134217728 voxels"),
    ],
    ids=["missing modality", "missing seg", "shape", "nan", "truncated", "not nifti", "unknown label", "pipe", "huge"],
)
def test_a_bad_file_is_named_with_its_site_and_fault(
    hospital: Path, command: Callable[..., str], channel: str, damage: Callable[[Path], None], says: str
) -> None:
    file = file_of(hospital, channel)
    damage(file)
    output = command("federation.toml", "--out", "result").replace("\n", "")
    assert file.name in output
    assert "west" in output
    assert says in output
    assert not Path("result").exists()
    assert not list(Path("cache").glob("**/*.partial*"))


def test_every_bad_case_of_every_site_is_named_at_once_with_what_to_do(
    hospital: Path, command: Callable[..., str]
) -> None:
    shutil.copytree(hospital, "other")
    first, second, third = sorted(hospital.iterdir())
    file = Path("federation.toml")
    file.write_text(file.read_text() + '[[site]]\nname = "east"\nrelease = "brats2023-gli"\npath = "other"\n')
    bad = [first / f"{first.name}-t1n.nii.gz", second / f"{second.name}-t1c.nii.gz"]
    bad.append(Path("other") / third.name / f"{third.name}-seg.nii.gz")
    for path in bad[:2]:
        truncate(path)
    bad[2].unlink()
    output = command("federation.toml", "--out", "result")
    told = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line]
    assert [(site, case, Path(file).name) for site, case, file, _ in told] == [
        ("west", first.name, bad[0].name), ("west", second.name, bad[1].name), ("east", third.name, bad[2].name)
    ]  # fmt: skip
    assert "error: 3 cases cannot be used\n" in output
    *_, listed, last = output.rstrip().splitlines()
    assert last == "Repair these cases, or leave them out with --skip-bad"
    assert not Path("result").exists()
    with Path(listed.removeprefix("Listed in ")).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == ["site", "case", "file", "reason"]
    assert f"Cases that cannot be used, in {hospital.parent}\n" in re.sub(" +\n", "\n", output)
    assert rows == [[*of, str(hospital.parent / below), reason] for *of, below, reason in told]


def test_a_list_of_bad_cases_takes_no_other_list_s_place(hospital: Path, command: Callable[..., str]) -> None:
    """Somebody may be at work in it; two starts in one second may write one each."""
    truncate(file_of(hospital, "t1n"))
    for _ in range(3):
        command("federation.toml", "--out", "results/one")
    assert len(list(Path("results").glob("*-bad-cases*.csv"))) == 3


def test_where_no_list_of_bad_cases_can_be_written_they_are_named_all_the_same(
    hospital: Path, command: Callable[..., str]
) -> None:
    truncate(file_of(hospital, "t1n"))
    Path("results").touch()
    output = command("federation.toml", "--out", "results/one")
    assert file_of(hospital, "t1n").name in output
    assert "The list of cases could not be written: results: " in output


def test_a_site_that_is_not_there_is_named_beside_bad_cases_which_no_option_helps(
    hospital: Path, command: Callable[..., str]
) -> None:
    truncate(file_of(hospital, "t1n"))
    file = Path("federation.toml")
    Path("empty").mkdir()
    file.write_text(file.read_text() + '[[site]]\nname = "east"\nrelease = "brats2023-gli"\npath = "empty"\n')
    output = command("federation.toml")
    assert "error: site east: " in output
    assert f"│ {file_of(hospital, 't1n').name} " in output
    assert "--skip-bad" not in output


def test_skipping_too_many_bad_cases_is_refused_with_every_reason(hospital: Path, command: Callable[..., str]) -> None:
    for case in sorted(hospital.iterdir())[:2]:
        truncate(case / f"{case.name}-t1n.nii.gz")
    output = command("federation.toml", "--skip-bad")
    assert "too few usable cases for training and testing" in output
    assert output.count("truncated or damaged") == 2


def test_a_comparison_skips_bad_cases_on_request_and_says_which(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runs themselves are left out: each takes exactly the cases that its config names."""
    asked: list[Settings] = []

    def complete(pool: RunPool, configs: list[Settings]) -> list[Path]:
        asked.extend(configs)
        if configs:
            raise FederationError("no run was made")
        return []

    monkeypatch.setattr(RunPool, "complete", complete)
    whole = [case.name for case in sorted(hospital.iterdir())]
    split = split_patients(
        Site("west", "brats2023-gli", ""), {name: name[:-4] for name in whole}, make_settings("smoke")
    )
    spoilt = next(name for name in whole if name[:-4] in split.training)
    truncate(hospital / spoilt / f"{spoilt}-t1n.nii.gz")
    arguments = ["--profile", "smoke", "federation.toml", "--seeds", "0", "--methods", "fine-tune"]
    refused = CliRunner().invoke(compare.app, arguments)
    assert "leave them out with --skip-bad" in refused.output
    assert not asked
    skipping = CliRunner().invoke(compare.app, [*arguments, "--seeds", "0,1", "--skip-bad"])
    assert skipping.output.count(f"│ west │ {spoilt} │") == 1, "once, though every seed opens it"
    assert "Skipped: 1 case that cannot be used" in skipping.output
    assert [site.cases for site in asked[0].sites] == [tuple(name for name in whole if name != spoilt)]


def test_an_unknown_label_suggests_the_release_that_has_it(hospital: Path, command: Callable[..., str]) -> None:
    edit(file_of(hospital, "seg"), with_value(4))
    assert "release brats2024-gli has it" in command("federation.toml"), "the one that names cases alike"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('release = "brats2023-gli"', 'release = "brats1999"', "release: unknown release 'brats1999'"),
        ('release = "brats2023-gli"', 'release = "brats2021"', "but 3 of brats2023-gli"),
        ('path = "data"', 'path = "elsewhere"', "path: "),
        ('path = "data"\n', "", "path: is missing"),
        ('path = "data"', 'path = "data"\ncases = ["BraTS-GLI-00001-000"]', "BraTS-GLI-00001-000"),
        ('path = "data"\n', 'path = "data"\n[[site]]\nname = "west"\nrelease = "brats2020"\npath = "."', "'west'"),
        ("[[site]]", "[site", "not valid TOML"),
    ],
    ids=["release", "wrong release", "path", "no path", "case", "duplicate", "toml"],
)
def test_a_mistake_in_the_federation_file_is_named_with_its_field(
    hospital: Path, command: Callable[..., str], before: str, after: str, says: str
) -> None:
    file = Path("federation.toml")
    file.write_text(file.read_text().replace(before, after))
    output = command("federation.toml", "--out", "result")
    assert says in output.replace("\n", "")
    assert not Path("result").exists()


def test_brackets_in_a_message_are_printed_as_they_are(hospital: Path, command: Callable[..., str]) -> None:
    Path("federation.toml").write_text("")
    assert "is empty: expected a [[site]] or a setting" in command("federation.toml")
    folder = Path("scans[/old]")
    folder.mkdir(parents=True)
    Path("federation.toml").write_text(f'[[site]]\nname = "a"\nrelease = "brats2021"\npath = "{folder}"\n')
    assert "scans[/old]" in command("federation.toml").replace("\n", "")


def test_an_empty_directory_is_named(hospital: Path, command: Callable[..., str]) -> None:
    shutil.rmtree(hospital)
    hospital.mkdir()
    output = command("federation.toml").replace("\n", "")
    assert "the directory is empty" in output
    assert "data" in output


def test_a_site_whose_every_patient_came_before_is_named(hospital: Path, command: Callable[..., str]) -> None:
    file = Path("federation.toml")
    file.write_text(file.read_text() + file.read_text().replace("west", "again"))
    output = command("federation.toml").replace("\n", "")
    assert "site again: an earlier site brought all of its patients" in output


def test_a_site_left_with_one_patient_by_overlap_tells_what_was_left_out(
    hospital: Path, command: Callable[..., str]
) -> None:
    kept, *others = sorted(case.name for case in hospital.iterdir())
    file = Path("federation.toml")
    first = file.read_text() + f"cases = {others}\n"
    file.write_text(first + file.read_text().replace("west", "again"))
    output = command("federation.toml").replace("\n", "")
    assert "site again: 1 patient cannot be split" in output
    assert "Give again other patients, leave it out, or keep them with --allow-overlap" in " ".join(output.split())
    assert all(f"again: {case} is {case}, which west brought first" in output for case in others)
    assert f"{kept} is" not in output


def test_one_patient_cannot_be_split(hospital: Path, command: Callable[..., str]) -> None:
    for case in sorted(hospital.iterdir())[1:]:
        shutil.rmtree(case)
    assert "site west: 1 patient cannot be split" in command("federation.toml").replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sites", "0"], "sites: 0"),
        (["--profile", "desktop"], "unknown profile 'desktop'"),
        (["--method", "magic"], "unknown method 'magic'"),
        (["--teacher", "both"], "teacher: 'both'"),
        (["--seed", "-1"], "seed: -1"),
        (["--lambda", "-0.5"], "method.lambda_kd: -0.5 is not a number of at least 0"),
        (["--steps", "0"], "scoring.sampling_steps: 0 is not a whole number of at least 1"),
        (["--sites", "2", "federation.toml"], "--sites: federation.toml already names the hospitals"),
        (["nowhere.toml"], "nowhere.toml"),
        (["--cpus-per-site", "4096"], "--cpus-per-site"),
        (["--out", "data"], "not empty"),
        (["--out", "federation.toml/run"], "cannot be a run directory"),
        (["--ray-address", "127.0.0.1:1"], "Ray at 127.0.0.1:1"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    hospital: Path, command: Callable[..., str], arguments: list[str], says: str
) -> None:
    assert says in command(*arguments).replace("\n", "")
