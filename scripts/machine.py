"""What a timing was taken on."""

import os
import platform
from pathlib import Path

from strategies.run_directory import installed_versions


def machine(threads: int) -> dict[str, str | int | dict[str, str]]:
    """Return the processor's name, its cores, the threads that torch was given, and the versions of the software."""
    versions = installed_versions()
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "torch": versions["torch"],
        "versions": versions,
    }


def _cpu() -> str:
    """Return the processor's name as Linux tells it, else what Python knows of it."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
