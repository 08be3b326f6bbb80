"""In which precision the networks compute: bf16 pays only where the hardware has arithmetic for it."""

from functools import lru_cache

import torch

from fedserdiff.settings.groups import Precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network's forward pass runs on `device`; losses and weights stay fp32.

    ``auto`` means bf16 on GPUs that compute in it, and on CPUs with AMX. Other CPUs emulate it, at less than half the
    speed of fp32 (our choice, measured: docs/explanation/performance.md).
    """
    in_bf16 = has_bf16(device.type) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=in_bf16)


@lru_cache(maxsize=8)
def has_bf16(device_type: str) -> bool:
    """Say whether a device, ``cpu`` or ``cuda``, has arithmetic for bf16 rather than emulates it."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, but what torch says in public (`torch.cpu.get_capabilities`) is younger than the oldest torch we run on.
    return device_type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
