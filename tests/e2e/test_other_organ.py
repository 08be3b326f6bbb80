"""Another organ, with other modalities and regions, in a whole federation that is given only its files."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import preloaded
import pytest
from kill_points import ONE_CPU
from typer.testing import CliRunner

from fedserdiff.commands import audit, export, segment

ROOT = Path(__file__).parents[2]


def call(workplace: Path, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [preloaded.python(), str(ROOT / "scripts" / f"{script}.py"), *arguments],
        cwd=workplace,
        env={**os.environ, **ONE_CPU, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compared(workplace: Path) -> Path:
    """A comparison on two phantom hospitals' prostates: of SER-Diff's maps, of images and masks, and of adapters."""
    call(workplace, "phantoms", "men", "--organ", "prostate", "--profile", "smoke", "--sites", "2")
    methods = ("--methods", "ser-diff,image-replay,ser-diff-plus", "--seeds", "0", "--profile", "smoke")
    call(workplace, "compare", "men/phantom-prostates.toml", *methods, "--out", "organs")
    return workplace / "organs"


@pytest.mark.parametrize("method", ["ser-diff", "image-replay", "ser-diff-plus"])
def test_every_method_trains_and_scores_the_declared_regions(compared: Path, method: str) -> None:
    run = compared / "runs" / f"{method}-seed0"
    results = json.loads((run / "results.json").read_text())
    assert set(results["R"]["dice"]) == {"mean", "PZ", "TZ"}
    for metric in ("dice", "hd95"):
        by_region = [np.array(results["R"][metric][region]) for region in ("PZ", "TZ")]
        assert by_region[0].shape == (3, 2)
        np.testing.assert_allclose(np.mean(by_region, 0), results["R"][metric]["mean"])
    config = json.loads((run / "config.json").read_text())
    assert (config["data"]["modalities"], config["data"]["regions"]) == (["T2", "ADC"], ["PZ", "TZ"])


def test_the_page_says_that_these_are_no_brains_it_knows(compared: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", (compared / "report.html").read_text())
    assert "phantom-prostates.toml data" in text
    assert "BraTS scores" not in text


@pytest.fixture
def command(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Call a command line in this process, in the working directory."""
    monkeypatch.chdir(workplace)

    def call(module: ModuleType, *arguments: str) -> str:
        done = CliRunner().invoke(module.app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    return call


def test_new_scans_are_segmented_in_the_datasets_labels(
    compared: Path, command: Callable[..., str], workplace: Path
) -> None:
    run = str(compared / "runs" / "ser-diff-plus-seed0")
    command(segment, run, "men/prostates-2-seed0/imagesTr", "--site", "site-2", "--out", "zones")
    command(export, run, "--site", "site-2", "--out", "zones.safetensors")
    scans = sorted((workplace / "men" / "prostates-2-seed0" / "imagesTr").iterdir())
    command(segment, "zones.safetensors", str(scans[0]), "--out", "one")
    for scan in scans:
        labels = nib.load(workplace / "zones" / scan.name)
        assert labels.shape == nib.load(scan).shape[:3]
        np.testing.assert_array_equal(labels.affine, nib.load(scan).affine)
        assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 1, 2}
    written = [(workplace / folder / scans[0].name).read_bytes() for folder in ("zones", "one")]
    assert written[0] == written[1]


@pytest.mark.usefixtures("compared")
def test_an_audit_of_overlap_finds_no_man_twice(command: Callable[..., str]) -> None:
    said = command(audit, "overlap", "men/phantom-prostates.toml", "--profile", "smoke")
    assert "no patient is at two sites" in said
