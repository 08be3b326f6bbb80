from pathlib import Path

import pytest

from fedserdiff.config import make_config
from fedserdiff.federation import phantom_federation
from sites.hospital import Hospital, open_hospital


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """The first phantom hospital, its scans on a grid that shows shapes: 22 training patients, 6 test patients."""
    folder: Path = tmp_path_factory.mktemp("hospital")
    config = make_config("smoke", phantom_patients=28, grid=(24, 32, 24), spacing_mm=6.0)
    (site,) = phantom_federation(1, config, folder / "phantom")
    return open_hospital(site, config, folder / "cache")
