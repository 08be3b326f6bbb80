"""Processes that a command started end with it, by every way of killing it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LOOPBACK = """
import json, os, sys, time
from pathlib import Path
from fedserdiff.experiments.local_federation import LocalFederation

federation = object.__new__(LocalFederation)
federation.folder, federation._processes = Path(sys.argv[1]), {}
for name in ("coordinator", "west"):
    federation._start(name, ["sleep", "300"], dict(os.environ))
print(json.dumps([process.pid for process in federation._processes.values()]), flush=True)
time.sleep(300)
"""


def alive(process: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


def test_processes_of_a_rehearsal_that_is_killed_end_with_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LOOPBACK, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = json.loads(parent.stdout.readline())
        assert all(map(alive, started))
        parent.kill()
    end = time.monotonic() + 300
    while any(map(alive, started)) and time.monotonic() < end:
        time.sleep(0.05)
    left = [process for process in started if alive(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left
