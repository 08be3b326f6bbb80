"""A federation of two hospitals, provisioned for each test."""

from pathlib import Path

import pytest

from fedserdiff.deployment.kit import Coordinator
from fedserdiff.deployment.provisioning import provision
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

ADDRESS = "federation.example.org:8443"


@pytest.fixture
def experiment() -> Settings:
    """Input for provisioning: two hospitals, and the folder and scans of one."""
    cases = ("BraTS2021_00007", "BraTS2021_00008", "BraTS2021_00009")
    north = Site("north", "brats2021", "", cases, cases[1:2], cases[2:])
    return make_settings(
        "smoke",
        {"training.rounds": 3, "method.gamma": 0.5},
        sites=(north, Site("east", "brats2023-gli", "scans-of-east")),
    )


@pytest.fixture
def coordinator(tmp_path: Path, experiment: Settings) -> Coordinator:
    """The coordinator of the federation under ``tmp_path / "kits"``; both hospitals' scans are there."""
    (tmp_path / "scans-of-north").mkdir()
    (tmp_path / "kits").mkdir()
    made = provision(tmp_path / "kits", experiment, ADDRESS, {"north": str(tmp_path / "scans-of-north")})
    (tmp_path / "kits" / "sites" / "east" / "scans-of-east").mkdir()
    return made


@pytest.fixture
def kits(tmp_path: Path, coordinator: Coordinator) -> Path:
    """The folder of that federation."""
    return tmp_path / "kits"
