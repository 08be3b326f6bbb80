"""A Python that need not import torch, Flower, MONAI and Ray anew: what it is to run is forked from one that has.

Half of a small run is imports: of the program that starts it, and of each worker that Ray starts for it. What is forked
has no thread and has opened nothing, so that it is as a new process is: it gets its own arguments, environment, working
directory and output, and may be killed.

`server` forks. `client` is what is started in place of Python: it hands over what it was asked to run, and ends as that
does. ``site/sitecustomize.py`` has every Python process below the tests name it as its `sys.executable`, so that Ray
starts its workers by it.
"""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from preloaded.client import FOLDER, REAL

_HERE = Path(__file__).parent
_PYTHON = sys.executable
_KILL_POINTS = _HERE.parent / "kill_points.py"


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str], timeout_s: float, point: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run ``simulate.py``, to a point of `kill_points` if one is named; its output is captured.

    Raises
    ------
    TimeoutExpired
        Where it is still at work after `timeout_s`; it is killed.
    """
    command = [python(), str(_KILL_POINTS), point, *arguments]
    whole = {**os.environ, **environment(), **env}
    return subprocess.run(
        command, cwd=cwd, env=whole, capture_output=True, text=True, errors="replace", timeout=timeout_s
    )


def environment() -> dict[str, str]:
    """Return what an environment needs for what is started in it to start Ray's workers preloaded."""
    paths = (str(_HERE / "site"), os.environ.get("PYTHONPATH", ""))
    return {FOLDER: str(Path(python()).parent), REAL: _PYTHON, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@cache
def python() -> str:
    """Return the path of the Python that is preloaded; its server is started, once in each process that tests."""
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))  # short: sockets are in it
    command = [_PYTHON, str(_HERE / "server.py"), str(folder)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(server.communicate)  # it ends with its input
    assert server.stdout is not None
    for _ in range(2):
        assert server.stdout.readline(), "it has imported everything, and listens"
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nexec '{_PYTHON}' -IS '{_HERE / 'client.py'}' \"$@\"\n")
    program.chmod(0o755)
    return str(program)
