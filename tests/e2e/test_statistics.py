"""``fedserdiff statistics`` on real Flower and Ray: two phantom hospitals, and one that is too small."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kill_points import ONE_CPU
from typer.testing import CliRunner

from fedserdiff.commands.audit import app as audit
from fedserdiff.commands.statistics import app
from sites.ledger import read_ledger

SITES = ("site-1", "site-2")


@pytest.fixture(scope="module")
def out(workplace: Path) -> Path:
    """What the command leaves of two hospitals of ten phantom patients, of whom about eight are trained on."""
    out = workplace / "told"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for name, value in ONE_CPU.items():
            patch.setenv(name, value)
        hospitals = ["--sites", "2", "--stream", "contrast", "--set", "data.phantom_patients=10"]
        done = CliRunner().invoke(app, ["--profile", "smoke", *hospitals, "--out", str(out)])
        assert done.exit_code == 0, done.output
    return out


def test_all_hospitals_figures_arrive_as_they_left(out: Path) -> None:
    summary: dict[str, Any] = json.loads((out / "statistics.json").read_text())
    assert list(summary["sites"]) == list(SITES)
    for site in SITES:
        told = summary["sites"][site]
        assert told["patients"] in (5, 10)
        for row in ("tc", "wt", "et"):
            assert sum(told["volumes"][row]) in (0, told["patients"])
        for modality in ("t1", "t1ce", "t2", "flair"):
            assert sum(told["intensities"][modality]) == pytest.approx(1)
            mean = np.dot(told["intensities"][modality], np.arange(-5.75, 6, 0.5))
            assert abs(mean) < 0.5, "z-scored"
    with (out / "statistics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * (1 + 24 + 16 + 192)
    assert "<svg" in (out / "statistics.html").read_text()


def test_the_ledger_has_what_left_and_the_audit_finds_that_it_arrived(out: Path) -> None:
    for site in SITES:
        ledger = out / "hospitals" / site / "ledger.jsonl"
        assert [(e.message, e.verdict) for e in read_ledger(ledger)] == [
            ("query", "sent"),
            ("query.statistics", "sent"),
        ]
        compared = ["ledger", str(ledger), "--received", str(out / "statistics.json"), "--site", site]
        done = CliRunner().invoke(audit, compared)
        assert done.exit_code == 0, done.output
        assert "Ledger and coordinator agree." in done.output


def test_a_directory_that_holds_something_is_refused(
    out: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    done = CliRunner().invoke(app, ["--profile", "smoke", "--sites", "2", "--out", str(out)])
    assert done.exit_code == 1
    assert "is not empty" in done.output
