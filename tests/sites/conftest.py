from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from scene import Scene

from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, open_hospital


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """The first phantom hospital at smoke size: two training patients, one test patient."""
    folder: Path = tmp_path_factory.mktemp("hospital")
    config = make_settings("smoke")
    (site,) = phantom_federation(1, config, folder / "phantom")
    return open_hospital(site, config, folder / "cache")


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[Hospital]:
    """The first two phantom hospitals at smoke size."""
    folder: Path = tmp_path_factory.mktemp("hospitals")
    config = make_settings("smoke")
    sites = phantom_federation(2, config, folder / "phantom")
    return [open_hospital(site, config, folder / "cache") for site in sites]


@pytest.fixture
def make_scene(
    tmp_path: Path, draw_volumes: Callable[..., Any], write_case: Callable[..., Path]
) -> Callable[..., Scene]:
    """Make a scene of sites, each of scans by name."""

    def make(sites: Mapping[str, Mapping[str, int]], **changes: Any) -> Scene:
        return Scene(tmp_path, draw_volumes, write_case, sites, **changes)

    return make
