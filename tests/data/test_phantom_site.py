"""A phantom hospital's patients: who joins for testing, and that training does not notice."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import phantoms, provision
from fedserdiff.data.phantom.site import phantom_site
from fedserdiff.data.split import Split, split_patients
from fedserdiff.deployment.kit import Coordinator
from fedserdiff.federation import phantom_federation, read_federation
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings


def divided(index: int, config: Settings) -> Split:
    return split_patients(*phantom_site(index, config), config)


@pytest.mark.parametrize("stream", ["patients", "contrast"])
@pytest.mark.parametrize("validation_share", [0.0, 0.25])
@pytest.mark.parametrize("index", range(8))
def test_patients_join_for_testing_alone(stream: str, index: int, validation_share: float) -> None:
    shares = {"data.phantom_stream": stream, "data.validation_share": validation_share}
    few = divided(index, make_settings("laptop", {**shares, "data.phantom_test_patients": 1}))
    many = divided(index, make_settings("laptop", {**shares, "data.phantom_test_patients": 10}))
    assert (many.training, many.validation) == (few.training, few.validation)
    assert few.test <= many.test
    assert len(many.test) == max(10, len(few.test))


def test_the_first_hospitals_of_the_default_stream_have_these_patients() -> None:
    """20 patients are a medium-sized hospital's, a fifth of them for testing, and at least ten."""
    splits = [divided(index, make_settings("laptop")) for index in range(3)]
    assert [(len(one.training), len(one.test)) for one in splits] == [(24, 10), (8, 10), (16, 10)]


def test_a_share_that_holds_out_enough_stays_the_share() -> None:
    site, patients = phantom_site(0, make_settings("laptop", {"data.test_share": 0.5}))
    assert (site.test_cases, len(patients)) == ((), 30)


def test_every_scan_of_a_patient_is_held_out_with_it() -> None:
    """Every eighth patient of hospital 3 has two scans: of the patients from 21 on it is the 24th."""
    site, patients = phantom_site(2, make_settings("laptop"))
    assert {"BraTS-GLI-02024-000", "BraTS-GLI-02024-001"} <= set(site.test_cases)
    assert patients["BraTS-GLI-02024-001"] == patients["BraTS-GLI-02024-000"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of tiny phantoms, of whom more are tested than a fifth."""
    file = tmp_path_factory.mktemp("profile") / "tiny.toml"
    data: dict[str, Any] = {"grid": [16, 24, 16], "spacing_mm": 8.0, "phantom_patients": 3, "phantom_test_patients": 4}
    file.write_text("[data]\n" + "".join(f"{name} = {value}\n" for name, value in data.items()))
    return file


def test_written_phantoms_are_held_out_as_in_a_simulation(profile: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(phantoms.app, [str(tmp_path / "written"), "--profile", str(profile), "--sites", "2"])
    assert done.exit_code == 0, done.output
    sites = read_federation(tmp_path / "written" / "phantom-brains.toml")
    simulated = phantom_federation(2, make_settings(str(profile)), tmp_path / "simulated")
    for site, other in zip(sites, simulated, strict=True):
        assert site.test_cases == other.test_cases
        assert len(site.test_cases) == 4
        assert set(site.test_cases) <= {folder.name for folder in Path(site.path).iterdir()}
        names = [sorted(folder.name for folder in Path(one.path).iterdir()) for one in (site, other)]
        assert names[0] == names[1]


def test_a_provisioned_phantom_hospital_holds_out_the_same_and_tells_nobody(profile: Path, tmp_path: Path) -> None:
    called = ["--sites", "2", "--profile", str(profile), "--coordinator", "localhost:8443"]
    done = CliRunner().invoke(provision.app, [*called, "--out", str(tmp_path / "kits")])
    assert done.exit_code == 0, done.output
    for index in range(2):
        expected = phantom_site(index, make_settings(str(profile)))[0]
        kit = tomllib.loads((tmp_path / "kits" / "sites" / f"site-{index + 1}" / "site.toml").read_text())
        assert kit["test_cases"] == [*expected.test_cases] != []
    assert not any(one.test_cases for one in Coordinator.load(tmp_path / "kits" / "coordinator").config.sites)
