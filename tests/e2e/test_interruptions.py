"""Killed runs: each resumes and ends with the result of an undisturbed run, bit for bit."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kill_points import POINTS, ROOT, results_of, run, same_files

CHAIN = (
    "before-ray",
    "untrained",
    "before-aggregation",
    "scoring",
    "consolidation",
    "stage-weights",
    "during-aggregation",
    "after-aggregation",
    "half-checkpoint",
    "between-names",
    "half-results",
    "last-scores",
    "picture",
)
"""The points tried here, for reasons of time; kill_points.py tries all of them one by one."""

KEEPS_MOST = ("--method", "ser-diff-plus", "--shared-error-maps", "null")  # adapters, a bank, a teacher that changes
SMOKE = ("--profile", "smoke", "--sites", "3", *KEEPS_MOST)
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(workplace: Path) -> Path:
    """The run that nobody disturbed."""
    done = run(*SMOKE, "--out", "whole", cwd=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace / "whole"


@pytest.fixture(scope="module")
def chain(workplace: Path, whole: Path) -> list[subprocess.CompletedProcess[str]]:
    """One run that is killed at one point after another, and goes on each time; the last process ends it."""
    first, *rest = CHAIN
    done = [run(*SMOKE, "--out", "chain", cwd=workplace, point=first)]
    done += [run("--resume", "chain", cwd=workplace, point=point) for point in rest]
    done.append(run("--resume", "chain", cwd=workplace))
    return done


def test_a_run_that_was_killed_at_every_point_ends_with_the_result_of_the_run_that_was_not(
    chain: list[subprocess.CompletedProcess[str]], whole: Path, workplace: Path
) -> None:
    *killed, last = chain
    told = dict(zip(CHAIN, killed, strict=True))
    assert {name: process.returncode for name, process in told.items()} == dict.fromkeys(CHAIN, KILLED)
    assert list(CHAIN) == [name for name in POINTS if name in CHAIN], "in the order in which a run comes by them"
    assert len(killed) >= 12
    assert last.returncode == 0, last.stdout + last.stderr
    assert results_of(workplace / "chain") == results_of(whole)
    assert same_files(workplace / "chain", whole)
    for name in ("examples.png", "volumes.html"):
        assert (workplace / "chain" / name).read_bytes() == (whole / name).read_bytes()


def test_no_finished_round_was_repeated_and_the_results_say_where_the_run_was_gone_on_with(
    chain: list[subprocess.CompletedProcess[str]], workplace: Path
) -> None:
    interruptions = json.loads((workplace / "chain" / "results.json").read_text())["interruptions"]
    assert interruptions == [
        "after stage 1, round 1",
        "after stage 1, round 2",
        "after stage 1, scored",
        "after stage 1, scored",
        "after stage 1",
        "after stage 1",
        "after stage 1",
        "after stage 2, round 1",
        "after stage 3, round 1",
        "after stage 3, scored",
    ]


def test_a_hospital_that_repeated_an_evaluation_holds_each_score_once(
    chain: list[subprocess.CompletedProcess[str]], whole: Path, workplace: Path
) -> None:
    for site in ("site-1", "site-2", "site-3"):
        table = Path("hospitals") / site / "scores.csv"
        assert (workplace / "chain" / table).read_text() == (whole / table).read_text()


def test_a_run_that_is_scored_in_part_trains_the_same_student_and_goes_on_as_well(whole: Path, workplace: Path) -> None:
    part = ("--evaluate-every", "3", "--evaluate-sites", "2")
    killed = run(*SMOKE, *part, "--out", "part", cwd=workplace, point="before-results")
    assert killed.returncode == KILLED, killed.stderr
    done = run("--resume", "part", cwd=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after stage 2, scored" in done.stdout
    assert "measured in part: after stages 0, 3 on site-" in done.stdout
    results, expected = results_of(workplace / "part"), results_of(whole)
    sample = [int(site[-1]) for site in results["evaluation"]["sites"]]
    assert len(sample) == 2
    assert results["evaluation"]["rows"] == [0, 3]
    measured = {0: sample, 1: [1, *({2} & {*sample})], 2: [2, *({3} & {*sample})], 3: sorted({3, *sample})}
    for row, sites in measured.items():
        by_site = expected["R"]["hd95"]["mean"][row]
        assert results["R"]["hd95"]["mean"][row] == [by_site[j - 1] if j in sites else None for j in (1, 2, 3)], row
    for name in ("student.pt", "teacher.pt"):
        assert (workplace / "part" / name).read_bytes() == (whole / name).read_bytes()
    assert results["bytes_out"]["site-1"]["arrays"] == expected["bytes_out"]["site-1"]["arrays"]
    with (workplace / "part" / "results.csv").open() as file:
        lines = {(int(line["stage"]), int(line["site"][-1])) for line in csv.DictReader(file)}
    assert lines == {(row, site) for row, sites in measured.items() for site in sites}


def test_going_on_with_a_finished_run_changes_nothing_and_says_so(
    chain: list[subprocess.CompletedProcess[str]], workplace: Path
) -> None:
    folder = workplace / "chain"
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = run("--resume", "chain", cwd=workplace)
    assert again.returncode == 0
    assert "chain is finished; there is nothing to continue" in again.stdout
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_going_on_with_another_run_than_asked_for_is_refused_with_what_differs(
    chain: list[subprocess.CompletedProcess[str]], workplace: Path
) -> None:
    refused = run("--resume", "chain", "--seed", "3", "--method", "ewc", "--sites", "2", cwd=workplace)
    assert refused.returncode == 1
    assert (
        "method was 'ser-diff-plus', but 'ewc' is given; seed was 0, but 3 is given; sites were 3, but 2 is given"
        in refused.stderr
    )
    assert "Traceback" not in refused.stderr
    assert "To continue" not in refused.stderr


def test_a_worker_that_is_killed_once_costs_a_retry_and_not_a_digit(whole: Path, workplace: Path) -> None:
    """In training and in scoring."""
    point = "worker-train+worker-evaluate"
    done = run(*SMOKE, "--out", "retried", cwd=workplace, point=point)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("lost its worker's process") >= 2
    assert results_of(workplace / "retried") == results_of(whole)


def test_without_retries_a_killed_worker_fails_its_stage_by_name_and_the_run_can_be_gone_on_with(
    whole: Path, workplace: Path
) -> None:
    point = "worker-consolidate"
    failed = run(*SMOKE, "--retries", "0", "--out", point, cwd=workplace, point=point)
    assert failed.returncode == 1
    assert "error: stage 1 (site-1), consolidation: site-1 lost its worker's process" in failed.stderr
    assert f"python scripts/simulate.py --resume {point}" in failed.stderr
    assert "Traceback" not in failed.stderr
    resumed = run("--resume", point, cwd=workplace)
    assert resumed.returncode == 0, resumed.stderr
    assert results_of(workplace / point) == results_of(whole)


def test_a_run_interrupted_by_ctrl_c_says_how_to_go_on(workplace: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "simulate.py"), *SMOKE, "--out", "stopped"]
    started = subprocess.Popen(
        command,
        cwd=workplace,
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    guard = threading.Timer(900, started.kill)  # nothing here may wait for ever
    guard.start()
    try:
        assert started.stdout is not None
        for line in started.stdout:
            if line.startswith("stage 2/3"):
                break
        started.send_signal(signal.SIGINT)
        rest = started.stdout.read()
        assert started.wait(300) == 130
    finally:
        guard.cancel()
        started.kill()
    assert "stopped" in rest
    assert "To continue:\n  python scripts/simulate.py --resume stopped\n" in rest
    assert "Traceback" not in rest
    assert len(json.loads((workplace / "stopped" / "results.json").read_text())["R"]["dice"]["mean"]) >= 2


def test_a_run_goes_on_where_its_scans_are_and_with_what_a_machine_has_but_on_no_other_scans(
    workplace: Path, tmp_path: Path
) -> None:
    """With other scans, the result would belong to neither the old data nor the new."""
    import nibabel as nib

    from fedserdiff.data.phantom.generate import write_phantom_hospital

    def federation(name: str, path: Path) -> str:
        file = tmp_path / name
        file.write_text(f'[[site]]\nname = "west"\nrelease = "brats2021"\npath = "{path}"\n')
        return str(file)

    def config() -> dict[str, Any]:
        read: dict[str, Any] = json.loads((workplace / "moved" / "config.json").read_text())
        return read

    there = write_phantom_hospital(tmp_path, "contrast", 1, 3, 8.0, seed=0)
    killed = run(
        "--profile", "smoke", federation("there.toml", there), "--out", "moved", cwd=workplace,
        point="before-ray",
    )  # fmt: skip
    assert killed.returncode == KILLED, killed.stderr
    on_a_gpu = config()  # as another machine had begun it
    on_a_gpu["machine"] |= {"gpus_per_site": 1.0, "cpus_per_site": 500}
    (workplace / "moved" / "config.json").write_text(json.dumps(on_a_gpu))
    here = there.rename(tmp_path / "here")

    lost = run("--resume", "moved", cwd=workplace)
    assert lost.returncode == 1
    assert f"site west: {there}: no such directory; if its scans have moved" in lost.stderr
    assert "simulate FILE --resume moved" in lost.stderr

    killed = run("--resume", "moved", federation("here.toml", here), cwd=workplace, point="before-ray")
    assert killed.returncode == KILLED, killed.stderr
    assert config()["sites"][0]["path"] == str(here)
    assert config()["machine"]["gpus_per_site"] == 0
    assert config()["machine"]["cpus_per_site"] <= (os.cpu_count() or 1)
    killed = run("--resume", "moved", "--cpus-per-site", "1", cwd=workplace, point="before-ray")
    assert killed.returncode == KILLED, killed.stderr

    (tmp_path / "strange.toml").write_text((tmp_path / "here.toml").read_text().replace('"west"', '"east"'))
    strange = run("--resume", "moved", str(tmp_path / "strange.toml"), cwd=workplace)
    assert f"{tmp_path}/strange.toml: has no site west, which the run has" in strange.stderr

    scan = sorted(here.glob("*/*_seg.nii.gz"))[0]
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(0 * image.get_fdata().astype("uint8"), image.affine), scan)
    refused = run("--resume", "moved", cwd=workplace)
    assert refused.returncode == 1
    assert "moved: scans or segmentations of west have changed since it began" in refused.stderr
