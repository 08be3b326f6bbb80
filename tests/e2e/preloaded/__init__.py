"""A Python that skips the imports of torch, Flower, MONAI and Ray: programs are forked from a process that has them.

Half of a small run is imports: of the program that starts it, and of each worker that Ray starts for it. So it is with
hospitals of their own and with Flower's programs. What is forked has no thread and has opened nothing, so that it is as
a new process is: it gets its own arguments, environment, working directory and output, and may be killed.

`server` forks, for all that test at once. `client` is what is started in place of Python: it hands over what it was
asked to run, and ends as that does. ``site/sitecustomize.py`` has every Python process below the tests name it as its
`sys.executable`, so that Ray starts its workers by it. `scripts` are this Python's programs; it starts Flower's.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from filelock import FileLock

from preloaded.client import FLOWERS, FOLDER, FORKED, LOCK, REAL, SCRIPTS, USERS

_HERE = Path(__file__).parent
_PYTHON = sys.executable
_PROGRAMS = Path(sysconfig.get_path("scripts"))
_KILL_POINTS = _HERE.parent / "kill_points.py"
_START_S = 600


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
    return {FOLDER: str(_served()), REAL: _PYTHON, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def python() -> str:
    """Return the path of the Python that is preloaded."""
    return str(_served() / "python")


def scripts() -> str:
    """Return the folder of this Python's programs, Flower's being preloaded."""
    return str(_served() / SCRIPTS)


def descendants(process: int) -> list[int]:
    """Return the numbers of all that a process has started, and of what was forked for it or for those."""
    children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    forked = _served() / FORKED / str(process)
    if forked.exists():
        children.append(int(forked.read_text()))
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def settle() -> None:
    """Wait until what was forked for processes that were killed has ended, too."""
    forked = _served() / FORKED
    while any(not Path("/proc", asked.name).exists() for asked in forked.iterdir()):
        time.sleep(0.01)


@cache
def _served() -> Path:
    """Return the server's folder. The first process of a test run to ask starts it; it ends with the last of them."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"preloaded-{session[:12]}"  # short: sockets are in it
    with FileLock(folder.with_suffix(LOCK), timeout=_START_S):
        if not folder.exists():
            _start(folder)
        os.open(folder / USERS, os.O_WRONLY | os.O_NONBLOCK)  # as long as this process lives
    return folder


def _start(folder: Path) -> None:
    """Start the server."""
    folder.mkdir()
    (folder / FORKED).mkdir()
    os.mkfifo(folder / USERS)
    (folder / SCRIPTS).mkdir()
    for program in _PROGRAMS.iterdir():
        if program.name not in FLOWERS:
            (folder / SCRIPTS / program.name).symlink_to(program)
    _write(folder / "python")
    for name in FLOWERS:
        _write(folder / SCRIPTS / name, _PROGRAMS / name)
    server = subprocess.Popen([_PYTHON, str(_HERE / "server.py"), str(folder)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    for _ in range(2):
        assert server.stdout.readline(), "it has imported everything, and listens"


def _write(file: Path, *program: Path) -> None:
    """Write what starts Python preloaded, to run a program if one is named."""
    words = " ".join(f"'{word}'" for word in (_HERE / "client.py", *program))
    file.write_text(f"#!/bin/sh\nexec '{_PYTHON}' -IS {words} \"$@\"\n")
    file.chmod(0o755)
