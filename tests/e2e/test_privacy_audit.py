"""``audit.py privacy`` on a run of real Flower and Ray."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kill_points import ONE_CPU

ROOT = Path(__file__).parents[2]


def audit(run: Path, workplace: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "audit.py"), "privacy", str(run), "--shadows", "2"],
        cwd=workplace,
        env={**os.environ, **ONE_CPU, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
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
    for text in ("not privacy", "phantom data", "seed 0", counts, "AUC"):
        assert text.lower() in page.lower()
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_run_without_its_stages_students_is_refused(fine_tune: dict[str, Any], workplace: Path) -> None:
    old = workplace / "of-before"
    shutil.copytree(workplace / "fine-tune", old)
    (old / "student-of-stage-1.pt").unlink()
    done = audit(old, workplace)
    assert done.returncode == 1
    assert "student-of-stage-1.pt" in done.stderr
    assert "Traceback" not in done.stderr
