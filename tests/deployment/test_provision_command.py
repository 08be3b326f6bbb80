"""The command line: one call makes a federation; a mistake gives one clear line and leaves no files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import provision as provision_command
from fedserdiff.deployment.kit import Coordinator, HospitalKit
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

ROOT = Path(__file__).parents[2]
FEDERATION = """\
[[site]]
name = "north"
release = "brats2021"

[[site]]
name = "east"
release = "brats2023-gli"
path = "scans"
test_cases = ["BraTS-GLI-00000-000"]
"""


@pytest.fixture(scope="module")
def mistaken() -> Callable[..., str]:
    """Call the command line in this process; return what it says when it fails as it should."""

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(provision_command.app, ["--profile", "smoke", *arguments])
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.output.count("error:") == 1
        assert result.output.count("\n") == 1
        return result.output

    return call


def provision(workplace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "provision.py"), "--profile", "smoke", *arguments],
        cwd=workplace,
        env={**os.environ, "COLUMNS": "40"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_one_command_makes_a_federation_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "federation.toml").write_text(FEDERATION)
    done = provision(
        tmp_path,
        "federation.toml",
        "--coordinator",
        "192.0.2.7:8443",
        "--out",
        "kits",
        "--method",
        "ser-diff",
        "--seed",
        "4",
        "--rounds",
        "1",
        "--lambda",
        "0.5",
        "--teacher",
        "latest",
        "--participation",
        "cumulative",
        "--shared-error-maps",
        "mri",
        "--site-timeout",
        "1.5",
    )
    assert (done.returncode, done.stderr) == (0, "")
    kits = tmp_path / "kits"
    coordinator = Coordinator.load(kits / "coordinator")
    named = (Site("north", "brats2021", ""), Site("east", "brats2023-gli", ""))
    assert coordinator.address == "192.0.2.7:8443"
    assert coordinator.config == make_settings(
        "smoke",
        {
            "training.rounds": 1,
            "method.lambda_kd": 0.5,
            "method.teacher": "latest",
            "training.participation": "cumulative",
            "method.shared_error_maps": "mri",
            "machine.site_timeout_s": 5400,
        },
        method="ser-diff",
        seed=4,
        sites=named,
    )
    east = HospitalKit.load(kits / "sites" / "east").config.sites[1]
    assert east == Site("east", "brats2023-gli", str(tmp_path / "scans"), (), ("BraTS-GLI-00000-000",))

    assert (kits / "COMMANDS.txt").read_text() in done.stdout
    for told in (f"folder: {kits}/coordinator\n", f"hospital: {kits}/sites\n", f"{kits}/COMMANDS.txt\n"):
        assert told in done.stdout
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("Secret: ")]
    assert "node.key" in warning
    assert f"{kits}/authority/ca.key" in warning


def test_what_hospitals_of_another_organ_share_reaches_each_of_them(tmp_path: Path) -> None:
    channels = 'modalities = ["T2", "ADC"]\nregions = ["PZ", "TZ"]\n'
    (tmp_path / "f.toml").write_text(f'{channels}[[site]]\nname = "north"\nrelease = "msd"\npath = "scans"\n')
    (tmp_path / "scans").mkdir()
    arguments = ["f.toml", "--coordinator", "localhost:8443", "--out", "kits", "--profile", "smoke"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        done = CliRunner().invoke(provision_command.app, arguments)
    assert done.exit_code == 0, done.output
    config = HospitalKit.load(tmp_path / "kits" / "sites" / "north").config
    assert (config.data.modalities, config.data.regions) == (("T2", "ADC"), ("PZ", "TZ"))
    assert config.sites == (Site("north", "msd", str(tmp_path / "scans")),)


def test_as_many_phantom_hospitals_as_asked_are_named_and_the_same_place_is_not_taken_twice(tmp_path: Path) -> None:
    call = ("--sites", "2", "--coordinator", "localhost:8443", "--out", "kits")
    assert provision(tmp_path, *call).returncode == 0
    sites = Coordinator.load(tmp_path / "kits" / "coordinator").config.sites
    assert sites == (Site("site-1", "brats2020", ""), Site("site-2", "brats2021", ""))
    key = (tmp_path / "kits" / "authority" / "ca.key").read_bytes()

    again = provision(tmp_path, *call)
    assert (again.returncode, again.stdout) == (1, "")
    complaint = f"error: {tmp_path}/kits: is not empty: choose a new or empty directory\n"
    assert again.stderr == complaint
    assert (tmp_path / "kits" / "authority" / "ca.key").read_bytes() == key


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--coordinator", "host:1"), "hospitals: give either a federation file or --sites"),
        (("--coordinator", "host:1", "--sites", "2", "f.toml"), "f.toml: cannot be read (No such file"),
        (("--coordinator", "host:1", "--sites", "0"), "--sites: 0 is less than 1"),
        (("--coordinator", "host", "--sites", "1"), "coordinator: 'host' is not host:port"),
        (("--coordinator", "host:1", "--sites", "1", "--method", "pooled"), "method: pooled breaks privacy"),
        (("--coordinator", "host:1", "--sites", "1", "--method", "magic"), "method: unknown method 'magic'"),
        (("--coordinator", "host:1", "--sites", "1", "--profile", "desk"), "unknown profile 'desk'"),
        (("--coordinator", "host:1", "--sites", "1", "--teacher", "last"), "method.teacher: 'last' is not one of"),
        (("--coordinator", "host:1", "f.toml"), "f.toml: cannot be read (No such file"),
    ],
)
def test_mistake_is_one_clear_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistaken: Callable[..., str],
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"error: {complaint}" in mistaken("--out", "kits", *arguments)
    assert not any(tmp_path.iterdir())
