"""A real Ray cluster of two nodes on this machine, started by ``ray start`` and used by these tests only."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 600
_STOP_S = 120


@contextmanager
def two_nodes() -> Iterator[str]:
    """Start a head and a second node, of one CPU each, and return the cluster's address; both are stopped in the end.

    ``ray stop`` would stop every other Ray of this machine, too.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets are in it
    address = f"127.0.0.1:{_free_port()}"
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        head = ("--head", "--port", address.rpartition(":")[2], "--include-dashboard", "false")
        nodes.append(_start(folder, "head", *head, "--ray-client-server-port", str(_free_port())))
        _wait(nodes[0], folder / "head")
        nodes.append(_start(folder, "second", "--address", address))
        _wait(nodes[1], folder / "second")
        yield address
    finally:
        for node in reversed(nodes):
            _stop(node)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = Path(sysconfig.get_path("scripts")) / "ray"
    common = ("--num-cpus", "1", "--object-store-memory", str(100 * 10**6), "--temp-dir", str(folder), "--block")
    with (folder / name).open("wb") as log:
        return subprocess.Popen(
            [command, "start", *arguments, *common],
            cwd="/",  # nodes are not where the simulation is started
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(node: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


def _stop(node: subprocess.Popen[bytes]) -> None:
    node.send_signal(signal.SIGTERM)  # it stops what it started
    try:
        node.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
