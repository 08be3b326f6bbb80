"""In which precision the networks compute: half precision pays only where the hardware has arithmetic for it."""

from functools import lru_cache
from typing import Literal

import torch

from fedserdiff.settings.groups import Precision

_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_FIRST_SCALE = 2.0**13
"""Of a loss in fp16, whose gradients would else be too small for it (our choice: a round is short, and torch's own,
2^16, cost the refiner of a trained student two of its first eight steps)."""


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a network's forward pass runs on `device`; losses and weights stay fp32.

    ``auto`` means bf16 on GPUs that compute in it, and on CPUs with AMX; fp16 on older GPUs with tensor cores, and fp32
    else. Other CPUs emulate bf16, at less than half the speed of fp32 (our choice, measured:
    docs/explanation/performance.md).
    """
    kind = _TYPES[resolved(precision, device.type)]
    half = kind != torch.float32
    return torch.autocast(device.type, kind if half else torch.bfloat16, enabled=half)


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return what keeps gradients within the range of fp16, and skips a step where they are not; else it does nothing.

    One for each optimiser. It waits for no device where the optimiser is fused.
    """
    enabled = resolved(precision, device.type) == "fp16"
    return torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=enabled)


def resolved(precision: Precision, device_type: str) -> Literal["bf16", "fp16", "fp32"]:
    """Return the precision that ``auto`` means on a kind of device, ``cpu`` or ``cuda``; any other as it is."""
    if precision != "auto":
        return precision
    if has_bf16(device_type):
        return "bf16"
    return "fp16" if device_type == "cuda" and _has_tensor_cores() else "fp32"


@lru_cache(maxsize=8)
def has_bf16(device_type: str) -> bool:
    """Say whether a device, ``cpu`` or ``cuda``, has arithmetic for bf16 rather than emulates it."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private, but what torch says in public (`torch.cpu.get_capabilities`) is younger than the oldest torch we run on.
    return device_type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


@lru_cache(maxsize=1)
def _has_tensor_cores() -> bool:
    """Say whether the GPU is a V100 or younger: many an older one is slower in fp16 than in fp32."""
    return torch.cuda.get_device_capability() >= (7, 0)
