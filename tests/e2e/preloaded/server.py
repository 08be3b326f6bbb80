"""Fork programs for `client` from a process that has imported torch, Flower and MONAI, or from one with Ray as well.

Ray's workers must import Ray themselves, and its agents what is theirs: it reads their environment as it is imported.
What Flower's programs run of ours is imported anew from where they find it: the app is the one that Flower installed.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import sysconfig
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from client import FLOWERS, FORKED, LOCK, PROGRAM, SCRIPTS, USERS, WORKER

_OURS = ("fedserdiff", "sites", "strategies")
_EVERYBODYS = ("sites.client_app", "flwr.simulation", "torch._dynamo")
"""What a worker of Ray's imports: at its start, with what Flower hands it, and as its optimizer is first used."""
_PROGRAMS = (
    *("fedserdiff.experiments.simulated_run", "fedserdiff.experiments.served_hospital"),
    *("flwr.cli.app", "flwr.supercore.cli", "flwr.superlink.cli", "flwr.supernode.cli"),
)
"""What else programs do, Ray among it."""


class Asked(NamedTuple):
    """Who has asked for a process, what can be read once it has ended, and the file that tells its number."""

    client: socket.socket
    ends: int
    note: Path


def main(folder: Path) -> None:
    """Listen until nobody holds the pipe open any more; in what is forked, run what was asked for."""
    users = os.open(folder / USERS, os.O_RDONLY | os.O_NONBLOCK)
    for name in _EVERYBODYS:
        import_module(name)
    gc.freeze()
    if os.fork():
        serve(folder, WORKER, users)
    else:
        for name in _PROGRAMS:
            import_module(name)
        gc.freeze()
        serve(folder, PROGRAM, users)


def serve(folder: Path, name: str, users: int) -> None:
    """Take orders; answer each with the number of its process, and then with its exit status."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / name))
    listening.listen(64)
    print(flush=True)  # noqa: T201 - this one is ready
    asking: dict[int, Asked] = {}
    while True:
        watched = [one for asked in asking.values() for one in (asked.client, asked.ends)]
        ready, _, _ = select.select([users, listening, *watched], [], [])
        if users in ready:  # all of them have closed it
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(LOCK).unlink(missing_ok=True)
            return
        for child, asked in list(asking.items()):
            if asked.ends not in ready:
                if asked.client not in ready:
                    continue
                os.kill(child, signal.SIGKILL)  # who asked was killed
            _, status = os.waitpid(child, 0)
            del asking[child]
            os.close(asked.ends)
            asked.note.unlink(missing_ok=True)
            with asked.client, contextlib.suppress(OSError):
                asked.client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        if listening in ready:
            client, _ = listening.accept()
            try:
                order, files = _order(client)
            except (OSError, ValueError):  # who asked was killed
                client.close()
                continue
            child = os.fork()
            if child == 0:
                for one in (listening, client, *(asked.client for asked in asking.values())):
                    one.close()
                for number in (users, *(asked.ends for asked in asking.values())):
                    os.close(number)
                _become(order, files)
                _run(order["arguments"])
                return
            for file in files:
                os.close(file)
            note = folder / FORKED / str(order["for"])
            note.write_text(str(child))
            with contextlib.suppress(OSError):
                client.sendall(f"{child}\n".encode())
            asking[child] = Asked(client, os.pidfd_open(child), note)


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
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    lines, encoding = 1 if "PYTHONUNBUFFERED" in os.environ else -1, os.environ.get("PYTHONIOENCODING")
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as it runs, as the next two
    sys.stdout = open(1, "w", lines, encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, "backslashreplace", closefd=False)  # noqa: SIM115
    folder = Path(os.environ["PRELOADED_FOLDER"])
    sys.executable = str(folder / "python")
    own = sysconfig.get_path
    sysconfig.get_path = lambda name, *rest: str(folder / SCRIPTS) if name == SCRIPTS else own(name, *rest)


def _run(arguments: list[str]) -> None:
    """Run a script or a module as Python does."""
    module = arguments[0] == "-m"
    sys.argv = arguments[1:] if module else [one for one in arguments if one != "-u"]
    beside = os.getcwd() if module else str(Path(sys.argv[0]).parent)
    sys.path[:1] = dict.fromkeys([beside, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    if module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        return
    if Path(sys.argv[0]).name in FLOWERS:
        for name in [one for one in sys.modules if one.partition(".")[0] in _OURS]:
            del sys.modules[name]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
