"""`fedserdiff phantoms` writes the hospitals of the stream that it is asked for."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands.phantoms import app
from fedserdiff.federation import phantom_federation, read_federation
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings


def _names(config: Settings, root: Path) -> list[str]:
    return [Path(site.path).name for site in phantom_federation(2, config, root)]


@pytest.mark.parametrize("stream", ["contrast", "patients"])
def test_hospitals_are_those_that_a_simulation_of_the_stream_meets(stream: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "written"), "--profile", "smoke", "--sites", "2", "--stream", stream]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    sites = read_federation(tmp_path / "written" / "phantom-brains.toml")
    of_simulation = _names(make_settings("smoke", {"data.phantom_stream": stream}), tmp_path / "simulated")
    assert [Path(site.path).name for site in sites] == of_simulation
    assert all(any(Path(site.path).rglob("*.nii.gz")) for site in sites)


def test_without_a_stream_it_is_the_settings_own(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(tmp_path), "--profile", "smoke", "--sites", "1"])
    assert done.exit_code == 0, done.output
    (written,) = read_federation(tmp_path / "phantom-brains.toml")
    assert Path(written.path).name == _names(make_settings("smoke"), tmp_path / "simulated")[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--stream", "scanners"), "data.phantom_stream: 'scanners' is not"),
        (
            ("--stream", "patients", "--organ", "prostate"),
            "--stream: only applies to brains; leave it out for prostates",
        ),
    ],
)
def test_a_stream_that_is_not_there_is_refused(arguments: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [str(tmp_path / "none"), "--profile", "smoke", *arguments])
    assert done.exit_code == 1
    assert complaint in " ".join(done.output.split())
    assert not (tmp_path / "none").exists()
