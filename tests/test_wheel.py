"""The wheel holds everything that a command needs outside a checkout, and nothing else."""

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedserdiff.commands.main import load
from fedserdiff.experiments import local_federation

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedserdiff", "sites", "strategies")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The project's wheel, built by what is installed here: no network."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(out))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.iterdir()
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_four_packages_whole_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    assert held == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert "fedserdiff/report/templates/comparison.html" in held


def test_the_wheel_brings_the_command_and_the_licence(wheel: zipfile.ZipFile) -> None:
    about = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    points = configparser.ConfigParser()
    points.read_string(wheel.read(about["entry_points.txt"]).decode())
    assert dict(points["console_scripts"]) == {"fedserdiff": "fedserdiff.commands.main:app"}
    assert wheel.read(about["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()


def test_a_rehearsal_says_that_it_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_federation, "PROJECT", tmp_path / "site-packages")
    done = CliRunner().invoke(load("loopback"), ["--profile", "smoke"])
    assert done.exit_code == 1
    assert "a wheel does not contain. Check the project out" in done.output
    assert not any(tmp_path.iterdir())
