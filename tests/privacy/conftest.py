from pathlib import Path

import pytest

from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, open_hospital


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """The first phantom hospital, its scans on a grid that shows shapes: 22 training patients, 6 test patients."""
    folder: Path = tmp_path_factory.mktemp("hospital")
    of_contrast = {"data.phantom_stream": "contrast", "data.phantom_patients": 28}
    config = make_settings("smoke", {**of_contrast, "data.grid": (24, 32, 24), "data.spacing_mm": 6.0})
    (site,) = phantom_federation(1, config, folder / "phantom")
    return open_hospital(site, config, folder / "cache")
