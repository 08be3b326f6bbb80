"""Let the server fork the program that this process should run, and exit as it exits; otherwise be Python.

It is run without site-packages, in a few milliseconds.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

FOLDER, REAL = "PRELOADED_FOLDER", "PRELOADED_REAL"
"""Environment variables: where the server's sockets are, and which Python is the real one."""
PROGRAM, WORKER = "program.socket", "worker.socket"
USERS, FORKED, SCRIPTS, LOCK = "users", "forked", "scripts", ".lock"
"""With the sockets: a pipe that is open as long as anybody may ask, who was forked for whom, and programs that ask;
beside their folder, a lock."""
FLOWERS = ("flower-superlink", "flower-superexec", "flower-supernode", "flwr-serverapp", "flwr")

_TESTS = Path(__file__).parents[2]
_SCRIPTS = _TESTS.parent / "scripts"


def main() -> None:
    """Run what the command line says."""
    arguments = sys.argv[1:]
    name = _server(arguments)
    if name is None:
        real = os.environ[REAL]
        os.execv(real, [real, *arguments])
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.path.join(os.environ[FOLDER], name))
        whole = {"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd(), "for": os.getpid()}
        order = json.dumps(whole).encode()
        socket.send_fds(server, [len(order).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(order)
        answers = server.makefile()
        child = int(answers.readline())

        def forward(number: int, frame: FrameType | None) -> None:
            os.kill(child, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, forward)
        code = int(answers.readline() or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


def _server(arguments: Sequence[str]) -> str | None:
    """Return the socket of the server that has imported what is to run; None where none has."""
    if arguments[:1] == ["-m"]:
        return PROGRAM if arguments[1].startswith("fedserdiff.") else None
    script = Path(next((one for one in arguments if one != "-u"), ""))
    if script.name == "default_worker.py":
        return WORKER
    ours = _TESTS in script.parents or script.parent == _SCRIPTS
    python = script.suffix == ".py" and (ours or "ray" in script.parts)
    return PROGRAM if python or script.name in FLOWERS else None


if __name__ == "__main__":
    main()
