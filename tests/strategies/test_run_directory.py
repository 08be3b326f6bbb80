import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    assert {p.name for p in run.path.iterdir()} == {"results.json", "lock"}


AT_WORK = """
import sys
from pathlib import Path
from strategies.run_directory import RunDirectory

RunDirectory.of_federation(Path(sys.argv[1])).write_json("results.json", {"stage": 1})
print("at work", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A coordinator's process that is at work in `folder` until it is told to end."""
    command = [sys.executable, "-c", AT_WORK, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "at work\n"
            yield process
        finally:
            process.kill()


def test_a_federations_folder_belongs_to_one_process_at_a_time_and_outlives_it(tmp_path: Path) -> None:
    folder = tmp_path / "federation" / "run"
    with another_process(folder) as process:
        assert folder.is_dir()
        with pytest.raises(ConfigError, match=f"^{folder}: another process is working on this run; wait"):
            RunDirectory.of_federation(folder, patience_s=0)
        process.kill()  # as a crash would: nothing is tidied up
        process.wait()
        run = RunDirectory.of_federation(folder)
    assert json.loads((run.path / "results.json").read_text()) == {"stage": 1}
    with pytest.raises(ConfigError, match="another process is working"):
        RunDirectory.of_federation(folder, patience_s=0.3)
    run.write_json("results.json", {"stage": 2})


def test_a_file_in_the_way_of_a_federations_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("keep me")
    with pytest.raises(ConfigError, match=r"run: cannot be a run directory \(File exists\)"):
        RunDirectory.of_federation(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "keep me"
