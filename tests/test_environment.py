"""Every program works in incomplete environments, such as notebooks' shells and containers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = {"MPLBACKEND": "module://matplotlib_inline_that_is_not_here.backend_inline"}
NOBODY = """
import pwd

def none(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = none
"""  # as in a container whose user has no entry in passwd
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "wide"}

HEAVY = "import {package}, monai, matplotlib.figure, flwr.simulation, ray, sys; print(*map(chr, (955, 183, 0xDCFC)))"


def python(
    tmp_path: Path, code: str, changes: Mapping[str, str], *lacking: str
) -> "subprocess.CompletedProcess[bytes]":
    """Run code as our programs are run, in an environment with changes."""
    kept = {name: value for name, value in os.environ.items() if name not in (*lacking, "MPLBACKEND")}
    env = {**kept, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), **changes}
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, timeout=900)


@pytest.mark.parametrize("package", ["fedserdiff.commands", "sites", "strategies"])
def test_our_programs_start_in_a_shell_of_a_notebook_as_nobody_and_print_what_a_terminal_cannot_show(
    tmp_path: Path, package: str
) -> None:
    """Coordinator's and hospital's halves also run in processes that Flower or a cluster's Ray started."""
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    nameless = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "FLWR_HOME")
    done = python(tmp_path, HEAVY.format(package=package), {**NOTEBOOK, **ASCII}, *nameless)
    assert (done.returncode, done.stdout) == (0, b"\\u03bb \\xb7 \\xfc\n"), done.stderr.decode()


@pytest.mark.parametrize("name", ["TkAgg", "no backend at all"])
def test_no_window_is_opened_whatever_backend_is_named(tmp_path: Path, name: str) -> None:
    code = "import fedserdiff.commands.compare, fedserdiff.report.charts, matplotlib; print(matplotlib.get_backend())"
    done = python(tmp_path, code, {"MPLBACKEND": name}, "DISPLAY")
    assert (done.returncode, done.stdout.lower()) == (0, b"agg\n"), done.stderr.decode()


def test_who_uses_the_library_keeps_the_backend_of_the_notebook(tmp_path: Path) -> None:
    code = "import fedserdiff.report.charts, matplotlib; print(matplotlib.get_backend())"
    done = python(tmp_path, code, {"MPLBACKEND": "svg"})
    assert (done.returncode, done.stdout) == (0, b"svg\n"), done.stderr.decode()


def test_a_users_name_is_made_up_where_there_is_none_alone(tmp_path: Path) -> None:
    code = "import fedserdiff, getpass; print(getpass.getuser())"
    assert python(tmp_path, code, {"LOGNAME": "alice"}).stdout == b"alice\n"
    (tmp_path / "sitecustomize.py").write_text(NOBODY)
    done = python(tmp_path, code, {}, "USER", "LOGNAME", "LNAME", "USERNAME")
    assert done.stdout.decode() == f"uid-{os.getuid()}\n", done.stderr.decode()


def test_help_is_printed_on_a_terminal_of_ascii(tmp_path: Path) -> None:
    """It names λ."""
    code = "from fedserdiff.commands.simulate import app; app(['--help'])"
    done = python(tmp_path, code, ASCII)
    assert done.returncode == 0, done.stderr.decode()
    assert b"--lambda" in done.stdout
