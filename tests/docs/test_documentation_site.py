"""The site is built from its sources without a warning, and holds what it is to hold."""

import subprocess
import sys
from pathlib import Path

import pytest
from other_values import every_setting

from fedserdiff.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, every warning an error."""
    for needed in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(needed)
    out = tmp_path_factory.mktemp("site")
    options = ("-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(out / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(out / "html")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_every_page_is_there(site: Path) -> None:
    pages = {file.relative_to(ROOT / "docs").with_suffix("") for file in (ROOT / "docs").rglob("*.md")}
    assert pages <= {file.relative_to(site).with_suffix("") for file in site.rglob("*.html")}


def test_commands_and_interfaces_are_told_from_the_code(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    for name in COMMANDS:
        assert f'id="fedserdiff-{name}"' in commands
    for told in ("--evaluate-every", "--expect-head", "the run to account for"):
        assert told in commands
    profiles = (site / "reference" / "configuration.html").read_text()
    assert ">200<" in profiles
    assert [one.name for _, one in every_setting() if f">{one.name}<" not in profiles] == []
    interfaces = "".join(
        (site / "reference" / "api" / f"{name}.html").read_text() for name in ("fedserdiff", "sites", "strategies")
    )
    for told in ("fedserdiff.settings.experiment.Settings", "sites.ledger.Ledger", "strategies.stream.ArrivalStream"):
        assert f'id="{told}"' in interfaces


def test_nothing_is_fetched_from_elsewhere_to_show_a_page(site: Path) -> None:
    page = (site / "index.html").read_text()
    for mark in ('src="http', 'rel="stylesheet" href="http', 'rel="preconnect"'):
        assert mark not in page
