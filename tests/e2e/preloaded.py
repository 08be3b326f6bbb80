"""Runs in processes of their own that need not import torch, Flower, Ray and MONAI anew: forked from one that has.

A third of a small run is its own imports. What is forked has no thread and has opened nothing, so that it is as a new
process is: it gets its own arguments, environment, working directory and output, and may be killed.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_STEP_S = 0.02


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str], timeout_s: float, point: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run ``simulate.py``, to a point of `kill_points` if one is named; its output is captured.

    Raises
    ------
    TimeoutExpired
        Where it is still at work after `timeout_s`; it is killed.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        order = {
            "arguments": arguments, "cwd": str(cwd), "env": {**os.environ, **env}, "timeout_s": timeout_s,
            "point": point, "out": f"{folder}/out", "err": f"{folder}/err",
        }  # fmt: skip
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        out, err = (Path(folder, name).read_text(errors="replace") for name in ("out", "err"))
    if code is None:
        raise subprocess.TimeoutExpired(list(arguments), timeout_s, out, err)
    return subprocess.CompletedProcess(["simulate.py", *arguments], code, out, err)


@cache
def _server() -> "subprocess.Popen[str]":
    """Start what forks, once in each process that tests."""
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.terminate)
    return server


def _serve() -> None:
    """Carry out orders, a line each, and answer each with its process's exit status; None where it took too long."""
    import kill_points

    import fedserdiff.experiments.simulated_run  # noqa: F401 - what takes the time

    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(order)
            if order["point"]:
                kill_points.pull_the_plug(order["point"], order["arguments"])
            else:
                kill_points.simulate(order["arguments"])
            return
        print(json.dumps(_ended(child, order["timeout_s"])), flush=True)  # noqa: T201 - the answer


def _become(order: Mapping[str, Any]) -> None:
    """Make this process what the order says."""
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])


def _ended(child: int, timeout_s: float) -> int | None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_STEP_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    _serve()
