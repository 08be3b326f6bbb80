"""Where networks compute: on a GPU that torch can use, else on the CPU; and what is said of a GPU that is not used.

All that runs a network asks here, so that there is one rule, and GPUs sum in the same order everywhere.
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

_DRIVER_S = 10  # that NVIDIA's driver gets to say what it sees
_HIDING = "CUDA_VISIBLE_DEVICES"


def use_device(machine: Machine) -> torch.device:
    """Return where this process computes by an experiment's settings, and have it sum as they say.

    That is torch's current GPU where a site has a share of one and torch can use it, else the CPU. Of a GPU that it
    shares, a process takes no more memory than its share: one that would is refused, and its neighbours go on.
    """
    compute_repeatably(machine.repeatable)
    if machine.gpus_per_site == 0 or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_per_process_memory_fraction(min(machine.gpus_per_site, 1.0))
    return torch.device("cuda")


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host's to a device, where it is needed; nothing waits for a GPU to have it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given; a CPU has.

    Without it a clock tells when work was given, not when it was done.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def room_on(device: torch.device) -> int:
    """Return the bytes that a GPU, or this machine, has to spare; much, where the machine does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return sys.maxsize


def compute_repeatably(repeatable: bool = True) -> None:
    """Have GPUs sum in the same order each time, where torch knows how, or let them choose; a CPU repeats anyway.

    cuBLAS reads its setting when a process first multiplies on a GPU: this comes before. A user's own value stands. New
    tensors are not filled besides, which takes 4 % of a step: nothing here reads what it has not written.
    """
    if repeatable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # `use_deterministic_algorithms` says it to torch's compiler, too, and loads that: seconds at the start of each
    # command. `compilation.as_asked` says it where something is compiled.
    torch.set_deterministic_debug_mode("warn" if repeatable else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # typed as a plain module


def settle_gpus(asked: float | None, where: str, tell: Callable[[str], None]) -> float:
    """Return how many GPUs of this machine a site at work gets.

    Parameters
    ----------
    asked : float or None
        What the user asked for; None is 1 where torch can use a GPU, else 0.
    where : str
        The option or the field by which GPUs are asked for, to name it.
    tell : callable
        Takes a line where nobody asked, and there is a GPU that torch cannot use.

    Raises
    ------
    ConfigError
        If some were asked for and torch can use none.
    """
    if asked is None:
        asked = float(torch.cuda.is_available())
        unusable = unusable_gpu()
        if unusable is not None:
            tell(f"{unusable}: everything is computed on the CPU")
    elif asked > 0 and not torch.cuda.is_available():
        raise ConfigError(f"{where}: {asked:g} asked for, but {why_no_gpu()}; {where} 0 computes on the CPU")
    return asked


def unusable_gpu() -> str | None:
    """Say of a GPU that its driver sees and torch cannot use which it is, and why; None where there is no such.

    A GPU that the environment hides from this process is meant to be left alone.
    """
    if torch.cuda.is_available() or _hidden():
        return None
    name = _seen_by_driver()
    return None if name is None else f"this machine has a GPU ({name}), but {why_no_gpu()}"


def why_no_gpu() -> str:
    """Say why torch can use no GPU."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
    else:
        reason = "it counts none"
    hidden = f" ({_HIDING}={os.environ[_HIDING]!r} hides them)" if _hidden() else ""
    return f"torch {torch.__version__} can use none: {reason}{hidden}"


def _hidden() -> bool:
    return os.environ.get(_HIDING, "all") in ("", "-1", "NoDevFiles")


def _seen_by_driver() -> str | None:
    """Return the name of the first GPU that NVIDIA's driver has on this machine."""
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
