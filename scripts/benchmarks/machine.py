"""Timing of work, and a description of the machine."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fedserdiff.device import finish
from fedserdiff.origin import installed_versions

_CPU = torch.device("cpu")


def machine(threads: int) -> dict[str, str | int | dict[str, str]]:
    """Return the processor's name, its cores, the number of torch's threads, and the versions of the software.

    ``bf16`` lists the processor's bf16 instructions, on which its speed in bf16 depends; known for Linux on x86 only.
    """
    versions = installed_versions()
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "bf16": " ".join(flag for flag in _cpuinfo("flags").split() if "bf16" in flag),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "torch": versions["torch"],
        "versions": versions,
    }


def seconds_of(work: Callable[[], object], device: torch.device = _CPU) -> float:
    """Return the wall time of one call of `work`, until `device` has finished it."""
    started = time.perf_counter()
    work()
    finish(device)
    return time.perf_counter() - started


def _cpuinfo(field: str) -> str:
    """Return a field of the first core from Linux's cpuinfo; empty on other systems."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""
