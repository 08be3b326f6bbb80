"""``audit.py privacy`` on a run of real Flower and Ray, and ``audit.py frontier`` on its result."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preloaded
import pytest
import torch
from click.testing import Result
from kill_points import ONE_CPU
from rich.console import Console
from typer.testing import CliRunner

from fedserdiff.commands import audit as audit_command
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.experiments.privacy_audit import audit as audit_privacy

ROOT = Path(__file__).parents[2]


def audit(run: Path, workplace: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [preloaded.python(), str(ROOT / "scripts" / "audit.py"), "privacy", str(run), "--shadows", "2"],
        cwd=workplace,
        env={**os.environ, **ONE_CPU, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_a_finished_run_is_attacked_and_its_page_says_how_well(fine_tune: dict[str, Any], workplace: Path) -> None:
    done = audit(workplace / "fine-tune", workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((workplace / "fine-tune" / "privacy.json").read_text())
    attacked = {(one["site"], one["channel"], one["attack"]) for one in found["findings"]}
    for site, stage in (("site-1", 1), ("site-2", 2)):
        assert (site, f"student of stage {stage}", "coarse loss, calibrated") in attacked
        assert (site, "null error maps", "nearest contour") in attacked
    assert ("site-1", "last student", "refined loss") in attacked
    assert ("site-2", "last student", "refined loss") not in attacked  # it is the student of stage 2
    assert ("site-1", "mri error maps", "canaries") in attacked
    for channel in ("gradient of a slice", "step on a slice", "round", "round, noise 0.001"):
        assert ("site-2", channel, "update inversion") in attacked
    assert all(0 <= one["auc"]["value"] <= 1 for one in found["findings"])
    with (workplace / "fine-tune" / "privacy.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(found["rows"])
    page = (workplace / "fine-tune" / "privacy.html").read_text()
    counts = "2 : 9"  # trained on : one test patient and 8 strangers
    for text in ("not a proof of privacy", "phantom data", "seed 0", counts, "AUC"):
        assert text.lower() in page.lower()
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_run_that_had_a_gpu_is_attacked_on_one_or_else_says_so_first(
    fine_tune: dict[str, Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a GPU shows that torch is asked for one."""
    run = workplace / "on-gpu"
    shutil.copytree(workplace / "fine-tune", run, ignore=shutil.ignore_patterns("privacy.*"))
    about = json.loads((run / "config.json").read_text())
    about["machine"]["gpus_per_site"] = 1.0
    (run / "config.json").write_text(json.dumps(about))
    monkeypatch.chdir(workplace)
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
            audit_privacy.audit_privacy(Console(), run, 2, Cache())

    def stops(*rest: object) -> None:
        raise ConfigError("as far as this test goes")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(audit_privacy, "reopen", stops)
    done = CliRunner().invoke(audit_command.app, ["privacy", str(run)], env={"COLUMNS": "300"})
    assert done.output.startswith(f"the run had a GPU, but torch {torch.__version__} can use none: ")
    assert "the attacks run on the CPU" in done.output


@pytest.fixture
def frontier(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> Callable[..., Result]:
    monkeypatch.chdir(workplace)
    return lambda *names: CliRunner().invoke(
        audit_command.app, ["frontier", *names, "--out", "front"], env={"COLUMNS": "200"}
    )


def test_audited_runs_stand_beside_those_whose_raw_scans_leave(
    frontier: Callable[..., Result], fine_tune: dict[str, Any], workplace: Path
) -> None:
    raw = workplace / "rehearsal"
    shutil.copytree(workplace / "fine-tune", raw, ignore=shutil.ignore_patterns("privacy.*"))
    for name, told in (("config.json", "name"), ("results.json", "method")):
        text = (raw / name).read_text()
        assert f'"{told}": "fine-tune"' in text
        (raw / name).write_text(text.replace(f'"{told}": "fine-tune"', f'"{told}": "rehearsal"'))
    done = frontier("fine-tune", "rehearsal")  # the first was audited by the test above
    assert done.exit_code == 0, done.output
    found = json.loads((workplace / "front" / "frontier.json").read_text())
    columns = {row[0]: dict(zip(found["columns"], row, strict=True)) for row in found["rows"]}
    audited = json.loads((workplace / "fine-tune" / "privacy.json").read_text())["findings"]
    weights = ("student of stage 1", "student of stage 2", "last student")
    left = [one for one in audited if one["channel"] in weights and one["attack"].endswith("calibrated")]
    assert len(left) == 6  # by two losses each
    worst = max(one["auc"]["value"] for one in left)
    assert columns["fine-tune"]["worst AUC [95 %]"].startswith(f"{worst:.2f}")
    assert columns["rehearsal"]["worst AUC [95 %]"] == "1.00"
    last = fine_tune["R"]["dice"]["mean"][-1]
    assert columns["fine-tune"]["final mean Dice % [95 %]"].startswith(f"{100 * sum(last) / len(last):.1f}")
    assert "raw scans" in columns["rehearsal"]["data sent"]
    assert columns["fine-tune"]["data sent"] == "weights"
    assert (workplace / "front" / "frontier.html").is_file()


def test_a_frontier_needs_runs_that_were_audited_and_differ(
    frontier: Callable[..., Result], fine_tune: dict[str, Any], workplace: Path
) -> None:
    shutil.copytree(workplace / "fine-tune", workplace / "unaudited", ignore=shutil.ignore_patterns("privacy.*"))
    refused = frontier("unaudited")
    assert refused.exit_code == 1
    assert "run python scripts/audit.py privacy unaudited first" in refused.output
    twice = frontier("fine-tune", "unaudited")
    assert twice.exit_code == 1
    assert "both are runs of fine-tune" in twice.output


def test_a_run_without_its_stages_students_is_refused(fine_tune: dict[str, Any], workplace: Path) -> None:
    old = workplace / "of-before"
    shutil.copytree(workplace / "fine-tune", old)
    (old / "student-of-stage-1.pt").unlink()
    done = audit(old, workplace)
    assert done.returncode == 1
    assert "student-of-stage-1.pt" in done.stderr
    assert "Traceback" not in done.stderr
