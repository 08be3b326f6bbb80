"""Fork what `client` asks for from a process that has imported torch, Flower and MONAI; from a second one, Ray too.

Ray's workers must import Ray themselves: it reads their environment as it is imported.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client import PROGRAM, WORKER

_STEP_S = 0.02


def main(folder: Path) -> None:
    """Listen until standard input ends, as the tests do; in what is forked, run what was asked for."""
    import sites.client_app  # noqa: F401 - what takes the time

    gc.freeze()
    if os.fork():
        serve(folder / WORKER)
    else:
        import fedserdiff.experiments.simulated_run  # noqa: F401 - what takes the time

        serve(folder / PROGRAM)


def serve(path: Path) -> None:
    """Take orders; answer each with the number of its process, and then with its exit status."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    print(flush=True)  # noqa: T201 - this one is ready
    asking: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, listening, *asking.values()], [], [], _STEP_S if asking else None)
        if 0 in ready:
            return
        for child, client in list(asking.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if client in ready and not pid:  # who asked was killed
                os.kill(child, signal.SIGKILL)
                pid, status = os.waitpid(child, 0)
            if pid:
                with asking.pop(child), contextlib.suppress(OSError):
                    client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        if listening in ready:
            client, _ = listening.accept()
            order, files = _order(client)
            child = os.fork()
            if child == 0:
                for one in (listening, client, *asking.values()):
                    one.close()
                _become(order, files)
                _run(order["arguments"])
                return
            for file in files:
                os.close(file)
            client.sendall(f"{child}\n".encode())
            asking[child] = client


def _order(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Read what is asked for, and take over the client's standard files."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as incoming:
        return json.loads(incoming.read(int.from_bytes(size, "big"))), files


def _become(order: Mapping[str, Any], files: list[int]) -> None:
    """Make this process what the order says."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115 - for as long as it runs
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.executable = str(Path(os.environ["PRELOADED_FOLDER"]) / "python")


def _run(arguments: list[str]) -> None:
    """Run a script as Python does."""
    sys.argv = [one for one in arguments if one != "-u"]
    named = [str(Path(sys.argv[0]).parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:1] = dict.fromkeys(named)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
