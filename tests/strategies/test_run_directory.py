import json
from pathlib import Path

import pytest

from fedserdiff.errors import ConfigError
from strategies.run_directory import RunDirectory


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("keep me")
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory.new(tmp_path)
    with pytest.raises(ConfigError, match="cannot be a run directory"):
        RunDirectory.new(precious)
    assert precious.read_text() == "keep me"


def test_nan_is_refused_and_what_stood_before_stays(tmp_path: Path) -> None:
    run = RunDirectory.new(tmp_path / "run")
    run.write_json("results.json", {"dice": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("results.json", {"dice": float("nan")})
    assert json.loads((run.path / "results.json").read_text()) == {"dice": 0.5}
    assert [p.name for p in run.path.iterdir()] == ["results.json"]
