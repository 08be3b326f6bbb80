from collections.abc import Callable
from functools import partial
from pathlib import Path

import finished_runs
import pytest

from fedserdiff.comparison.records import RunRecord

WriteRun = Callable[..., RunRecord]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write and load a run by hand: ``write_run(method, seed, levels)``."""
    return partial(finished_runs.write_run, tmp_path)
