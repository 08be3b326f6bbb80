"""``compare.py`` from the command line, at smoke size on the real engine."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import preloaded
import pytest
from typer.testing import CliRunner

from fedserdiff.commands import compare as compare_command

ROOT = Path(__file__).parents[2]
Compare = Callable[..., subprocess.CompletedProcess[str]]
CALL = ("--sites", "2", "--seeds", "0", "--methods", "ser-diff,fine-tune", "--out", "compared")


def command(*arguments: str) -> list[str]:
    return [preloaded.python(), str(ROOT / "scripts" / "compare.py"), "--profile", "smoke", *arguments]


@pytest.fixture(scope="module")
def compare(workplace: Path) -> Compare:
    """Run ``scripts/compare.py`` at smoke size; its output is captured."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(
            command(*arguments), cwd=workplace, env=environment, capture_output=True, text=True, timeout=900
        )

    return call


@pytest.fixture(scope="module")
def interrupted(workplace: Path) -> tuple[int, str]:
    """The first call, stopped by Ctrl-C as soon as the shared stage 1 is done: exit code and output."""
    started = subprocess.Popen(
        command(*CALL, "--parallel", "1"), cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    guard = threading.Timer(900, started.kill)  # nothing here may wait for ever
    guard.start()
    said = ""
    try:
        assert started.stdout is not None
        for line in started.stdout:
            said += line
            if "done" in line and "stage 1 for all methods" in line:
                break
        started.send_signal(signal.SIGINT)
        said += started.stdout.read()
        return started.wait(300), said
    finally:
        guard.cancel()
        started.kill()


@pytest.fixture(scope="module")
def finished(interrupted: tuple[int, str], compare: Compare, workplace: Path) -> dict[str, Any]:
    """The same call again, which goes on and ends: the contents of ``comparison.json``."""
    done = compare(*CALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stage 1 for all methods" not in done.stdout, "it was done before the interrupt"
    comparison: dict[str, Any] = json.loads((workplace / "compared" / "comparison.json").read_text())
    return comparison


def results(workplace: Path, run: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((workplace / "compared" / "runs" / run / "results.json").read_text())
    return values


def at_work_in(folder: Path) -> list[str]:
    """The commands of processes whose working directory is `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or is another user's
            if (process / "cwd").readlink() == folder:
                found.append((process / "cmdline").read_text())
    return found


def test_an_interrupt_says_that_finished_work_is_kept_and_leaves_no_process(
    interrupted: tuple[int, str], workplace: Path
) -> None:
    code, said = interrupted
    end = time.monotonic() + 120  # Ray's own processes notice within seconds that their driver has gone
    while (left := at_work_in(workplace)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left
    assert code == 130
    assert "finished runs are kept" in said
    assert "Traceback" not in said


def test_the_second_call_finishes_what_the_first_left(finished: dict[str, Any], workplace: Path) -> None:
    assert sorted(p.name for p in (workplace / "compared" / "runs").iterdir()) == ["fine-tune-seed0", "ser-diff-seed0"]
    assert [p.name for p in (workplace / "compared" / "first-stages").iterdir()] == ["seed0"]
    assert [m["name"] for m in finished["methods"]] == ["ser-diff", "fine-tune"]


def test_a_run_on_a_shared_stage_1_is_the_beginning_of_the_longer_stream(
    finished: dict[str, Any], workplace: Path, ser_diff: dict[str, Any]
) -> None:
    """`ser_diff` was trained whole by ``simulate.py`` on three sites; ours went on from a shared stage 1 on two."""
    ours = results(workplace, "ser-diff-seed0")
    for key in ("R", "R_coarse"):
        for metric in ("dice", "hd95"):
            whole = np.array(ser_diff[key][metric]["mean"])
            assert ours[key][metric]["mean"] == whole[:3, :2].tolist()
    assert ours["losses"] == ser_diff["losses"][:2]


def test_figures_of_comparison_and_page_are_those_of_results_json(finished: dict[str, Any], workplace: Path) -> None:
    page = (workplace / "compared" / "report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for method in finished["methods"]:
        own = results(workplace, f"{method['name']}-seed0")
        last = own["R"]["dice"]["mean"][-1]
        assert method["scores"]["dice"]["value"] == pytest.approx(np.mean(last))
        assert method["scores"]["bwt"]["value"] == pytest.approx(own["bwt"]["dice"]["mean"])
        assert method["bytes_out"]["arrays"] == sum(sent["arrays"] for sent in own["bytes_out"].values())
        hd95 = np.mean(own["R"]["hd95"]["mean"][-1])
        row = text[text.index("Scores at the end") :]
        row = row[row.index(f" {method['name']} ") :][:200]
        assert f"{100 * np.mean(last):.1f}" in row
        assert f"{hd95:.1f}" in row
    assert "not BraTS scores" in text
    assert not re.search(r"(src|href)=[\"']https?:", page)
    assert 'href="volumes.html"' in page
    volumes = (workplace / "compared" / "volumes.html").read_text()
    assert all(f"<option>{method['name']}</option>" in volumes for method in finished["methods"])


def test_a_third_call_runs_nothing_and_says_the_same(
    finished: dict[str, Any], compare: Compare, workplace: Path
) -> None:
    page = (workplace / "compared" / "report.html").read_text()
    before = {p: p.stat().st_mtime_ns for p in (workplace / "compared" / "runs").rglob("*") if p.is_file()}
    done = compare(*CALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": done, " not in done.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (workplace / "compared" / "report.html").read_text() == page
    assert "ser-diff" in done.stdout
    assert "mean Dice" in done.stdout


@pytest.fixture(scope="module")
def studied(finished: dict[str, Any], compare: Compare, workplace: Path) -> str:
    """What a study beside the comparison says, which does a run of its own."""
    done = compare("--sites", "2", "--study", "steps", "--out", "compared", "--set", "training.validate_every=2")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scored_cases(workplace: Path, run: str) -> dict[str, set[str]]:
    """The cases of a run's tables of scores, by site."""
    files = (workplace / "compared" / "runs" / run / "hospitals").glob("*/scores.csv")
    return {file.parent.name: {line.split(",")[1] for line in file.read_text().splitlines()[1:]} for file in files}


def test_a_study_scores_validation_patients_and_joins_the_page(studied: str, workplace: Path) -> None:
    assert "ser-diff-seed0-2: done" in studied, "the comparison's run was scored on test patients"
    assert "site-1: brats2020, 2 training, 1 validation and 1 test cases" in studied
    tested, validated = (scored_cases(workplace, f"ser-diff-seed0{number}") for number in ("", "-2"))
    assert set(tested) == set(validated) == {"site-1", "site-2"}
    assert all(validated[site] and not validated[site] & tested[site] for site in tested)
    study = json.loads((workplace / "compared" / "studies" / "steps.json").read_text())
    assert study["data"].startswith("phantom data, 2 sites, 2 validation cases for each seed")
    assert [row[0] for row in study["rows"]] == ["0 (coarse mask)", "1", "2", "4", "8", "16"]
    own = results(workplace, "ser-diff-seed0-2")  # the smoke profile samples in 2 steps
    assert own["scored"] == "validation"
    assert study["rows"][2][1] == f"{100 * np.mean(own['R']['dice']['mean'][-1]):.1f}"  # a patient a site: no interval
    assert study["rows"][0][1] == f"{100 * np.mean(own['R_coarse']['dice']['mean'][-1]):.1f}"
    assert all("undecided" in one["text"] for one in study["verdicts"])
    page = (workplace / "compared" / "report.html").read_text()
    assert "Sampling steps" in page
    assert "Scores at the end" in page


@pytest.mark.usefixtures("studied")
def test_what_hospitals_validated_as_they_trained_is_in_a_simulations_results(workplace: Path) -> None:
    """Stage 1 was another run's: its curves came with what the hospital kept of it. Two rounds of two steps a stage."""
    own = results(workplace, "ser-diff-seed0-2")
    found = [(point["site"], point["stage"], point["round"], point["step"]) for point in own["curves"]]
    assert found == [(f"site-{stage}", stage, number, 2 * number) for stage in (1, 2) for number in (1, 2)]
    for stage, (*_, last) in ((stage, own["curves"][: 2 * stage]) for stage in (1, 2)):
        score = own["R"]["dice"]["tc"][stage][stage - 1]  # of the same patients: what is scored is what was returned
        assert last["refined.dice.tc"] == pytest.approx(score, abs=2e-3)  # float16, between the two
        assert last["loss.segmentation"] > 0
    assert results(workplace, "ser-diff-seed0")["curves"] == []


@pytest.mark.usefixtures("finished", "ser_diff")
def test_a_folder_of_another_stream_is_refused(compare: Compare) -> None:
    for arguments, said in (
        (("--sites", "3", "--out", "compared"), "contains a comparison on phantom-patients2, smoke"),
        (("--sites", "2", "--out", "ser-diff"), "contains something other than a comparison"),
    ):
        done = compare("--seeds", "0", "--methods", "ser-diff", *arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def rolled(studied: str, compare: Compare, workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the comparison, and of its scans, all of whose segmentations are moved by 3 voxels."""
    place = tmp_path_factory.mktemp("rolled")
    shutil.copytree(workplace / "compared", place / "compared")
    for hospital in (workplace / "cache" / "phantom").glob("*-patients-site[12]-*-[34]p-8mm-seed0"):
        shutil.copytree(hospital, place / "cache" / "phantom" / hospital.name)
    for file in (place / "cache").rglob("*seg.nii.gz"):
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 3, axis=0), image.affine, image.header), file)
    return place


def test_a_comparison_that_is_killed_takes_its_runs_with_it_and_one_of_other_scans_begins_anew(
    rolled: Path, workplace: Path
) -> None:
    """No process lives on to write beside the next call; names are the same, and not one figure is the old one."""
    again = command("--sites", "2", "--seeds", "0", "--methods", "fine-tune", "--out", "compared", "--parallel", "1")
    said = (rolled / "said.txt").open("w")
    killed = subprocess.Popen(again, cwd=rolled, stdout=said, stderr=subprocess.STDOUT)
    status = rolled / "compared" / "first-stages" / "seed0-3.partial" / "status.txt"
    end = time.monotonic() + 900
    while not status.exists() and time.monotonic() < end:
        time.sleep(0.2)
    killed.kill()
    killed.wait()
    assert status.exists(), (rolled / "said.txt").read_text()
    end = time.monotonic() + 120
    while (left := at_work_in(rolled)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left

    old = {p: p.read_bytes() for p in (rolled / "compared").rglob("*seed0/*") if p.is_file()}
    done = subprocess.run(
        again, cwd=rolled, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    changed = "seed0 is kept but not used: scans or segmentations of site-1, site-2 have changed"
    assert f"runs/fine-tune-{changed}" in done.stdout
    assert f"first-stages/{changed}" in done.stdout
    assert "fine-tune-seed0-2: done" in done.stdout
    assert all(p.read_bytes() == content for p, content in old.items())
    new = json.loads((rolled / "compared" / "runs" / "fine-tune-seed0-2" / "results.json").read_text())
    assert new["R"]["dice"]["mean"] != results(workplace, "fine-tune-seed0")["R"]["dice"]["mean"]
    comparison = json.loads((rolled / "compared" / "comparison.json").read_text())
    assert comparison["methods"][0]["scores"]["dice"]["value"] == pytest.approx(np.mean(new["R"]["dice"]["mean"][-1]))


@pytest.mark.usefixtures("finished")
def test_a_page_shows_no_result_of_other_scans_beside_one_of_these(rolled: Path) -> None:
    """`rolled` has the study of before, which is of the scans of before."""
    study = rolled / "compared" / "studies" / "steps.json"
    assert study.is_file()
    page = (rolled / "compared" / "report.html").read_text()
    assert "Sampling steps" not in page
    assert "Scores at the end" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "ser-diff,nope"), "unknown method 'nope'"),
        (("--methods", ","), "--methods: is empty; name at least one"),
        (("--seeds", "0,one"), "--seeds: 'one' is not a whole number"),
        (("--study", "nope"), "unknown study 'nope'"),
        (("--parallel", "0"), "--parallel: 0 is less than 1"),
        (("--sites", "2", "x.toml"), "x.toml: cannot be read"),
        (("absent.toml",), "absent.toml"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(compare_command.app, ["--profile", "smoke", *arguments])
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1
