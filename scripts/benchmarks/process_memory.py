"""Peak memory of this process and of Ray's workers below it, from Linux's /proc."""

import contextlib
import os
from pathlib import Path

from fedserdiff.errors import ConfigError

_WORKER = b"ray::ClientAppActor"
_MIB = 1024.0  # kB


def peaks() -> dict[str, float]:
    """Return the peak resident memory since the last call, in MiB, of the ``coordinator`` and the largest ``worker``.

    Raises
    ------
    ConfigError
        If the system has no ``/proc`` with this information.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise ConfigError("peak memory is read from Linux's /proc, which this system lacks: run this on Linux")
    workers = [pid for pid in below(os.getpid()) if _is_worker(pid)]
    return {"coordinator": _peak(os.getpid()), "worker": max((_peak(pid) for pid in workers), default=0.0)}


def _peak(pid: int) -> float:
    """Read and reset a process's peak; return 0 if the process has ended."""
    folder = Path("/proc") / str(pid)
    with contextlib.suppress(OSError):
        status = (folder / "status").read_text()
        (folder / "clear_refs").write_text("5")  # resets the peak to the current resident memory
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / _MIB
    return 0.0


def _is_worker(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().startswith(_WORKER)
    return False


def below(ancestor: int) -> list[int]:
    """Return the ids of all descendants of a process."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text()
                parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]
