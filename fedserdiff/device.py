"""The choice of device: a GPU that torch can use, otherwise the CPU, with a note on a GPU that is not used.

All code that runs a network uses this module, so that the rule is the same everywhere and GPUs sum in the same order.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from fedserdiff.errors import ConfigError
from fedserdiff.settings.groups import Machine

_DRIVER_S = 10  # time limit for NVIDIA's driver to list GPUs
_HIDING = "CUDA_VISIBLE_DEVICES"


def use_device(machine: Machine) -> torch.device:
    """Return the device of this process, and apply the settings for repeatability and memory.

    The device is torch's current GPU if a site has a share of one and torch can use it, otherwise the CPU. A process
    takes at most its share of a shared GPU's memory: an allocation beyond it fails, and the other processes go on.
    """
    compute_repeatably(machine.repeatable)
    if machine.gpus_per_site == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(min(machine.gpus_per_site, 1.0))
    return torch.device("cuda")


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to a device, if needed; the copy to a GPU is asynchronous."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def finish(device: torch.device) -> None:
    """Wait until a GPU has finished all work that was submitted; do nothing for a CPU.

    Without it, timings end when work is submitted, not when it is done.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def room_on(device: torch.device) -> int:
    """Return the free memory in bytes of a GPU, or of this machine; `sys.maxsize` if that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize


def compute_repeatably(repeatable: bool = True) -> None:
    """Make GPUs sum in the same order every time, as far as torch can, or let them choose; sums on a CPU always repeat.

    Call it before the first multiplication on a GPU, when cuBLAS reads its setting. A value that the user has set is
    kept. New tensors are not filled, which would take 4 % of a step: nothing here reads uninitialised memory.
    """
    if repeatable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # `use_deterministic_algorithms` would also load torch's compiler, which takes seconds at the start of each command.
    # `compilation.as_asked` calls it if something is compiled.
    torch.set_deterministic_debug_mode("warn" if repeatable else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # typed as a plain module


def settle_gpus(asked: float | None, where: str, tell: Callable[[str], None]) -> float:
    """Return the number of this machine's GPUs for a site at work.

    Parameters
    ----------
    asked : float or None
        Number that the user requested; None means 1 if torch can use a GPU, else 0.
    where : str
        Name of the option or field that requests GPUs, for messages.
    tell : callable
        Receives a line if `asked` is None and there is a GPU that torch cannot use.

    Raises
    ------
    ConfigError
        If GPUs were requested but torch cannot use any.
    """
    if asked is None:
        asked = float(torch.cuda.is_available())
        unusable = unusable_gpu()
        if unusable is not None:
            tell(f"{unusable}: everything is computed on the CPU")
    elif asked > 0 and not torch.cuda.is_available():
        raise ConfigError(f"{where}: {asked:g} requested, but {why_no_gpu()}; use {where} 0 to compute on the CPU")
    return asked


def unusable_gpu() -> str | None:
    """Return which GPU the driver sees but torch cannot use, and why; None if there is none.

    A GPU that the environment hides from this process is not reported: it is hidden on purpose.
    """
    if torch.cuda.is_available() or _hidden():
        return None
    name = _seen_by_driver()
    return None if name is None else f"this machine has a GPU ({name}), but {why_no_gpu()}"


def why_no_gpu() -> str:
    """Return why torch cannot use any GPU."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
    else:
        reason = "it finds none"
    hidden = f" ({_HIDING}={os.environ[_HIDING]!r} hides them)" if _hidden() else ""
    return f"torch {torch.__version__} can use none: {reason}{hidden}"


def _hidden() -> bool:
    return os.environ.get(_HIDING, "all") in ("", "-1", "NoDevFiles")


def _seen_by_driver() -> str | None:
    """Return the name of the first GPU that NVIDIA's driver finds on this machine."""
    program = shutil.which("nvidia-smi")
    if program is not None:
        try:
            query = [program, "--query-gpu=name", "--format=csv,noheader"]
            told = subprocess.run(query, capture_output=True, text=True, timeout=_DRIVER_S, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            told = ""
        if told.strip():
            return told.strip().splitlines()[0]
    devices = [*Path("/proc/driver/nvidia/gpus").glob("*"), *Path("/dev").glob("nvidia[0-9]*")]
    return "NVIDIA" if devices else None
