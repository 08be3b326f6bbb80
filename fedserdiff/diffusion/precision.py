"""The precision of the networks' computations: half precision pays off only on hardware that supports it."""

from functools import lru_cache
from typing import Literal

import torch

from fedserdiff.settings.groups import Precision

_TYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_FIRST_SCALE = 2.0**13
"""Initial loss scale in fp16, whose gradients would otherwise underflow (our choice: a round is short, and torch's
default, 2^16, cost the refiner of a trained student two of its first eight steps)."""


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the autocast context for a network's forward pass on `device`; losses and weights stay fp32.

    ``auto`` means bf16 on GPUs with native bf16 and on CPUs with AMX, fp16 on older GPUs with tensor cores, and fp32
    otherwise. Other CPUs emulate bf16 at less than half the speed of fp32 (our choice, measured:
    docs/explanation/performance.md).
    """
    kind = _TYPES[resolved(precision, device.type)]
    half = kind != torch.float32
    return torch.autocast(device.type, kind if half else torch.bfloat16, enabled=half)


def gradient_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Return a gradient scaler for fp16, which skips steps whose gradients overflow; in other types it does nothing.

    Use one scaler per optimiser. With a fused optimiser, it does not wait for the device.
    """
    enabled = resolved(precision, device.type) == "fp16"
    return torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=enabled)


def resolved(precision: Precision, device_type: str) -> Literal["bf16", "fp16", "fp32"]:
    """Return `precision`, with ``auto`` resolved for a device type, ``cpu`` or ``cuda``."""
    if precision != "auto":
        return precision
    if has_bf16(device_type):
        return "bf16"
    return "fp16" if device_type == "cuda" and _has_tensor_cores() else "fp32"


@lru_cache(maxsize=8)
def has_bf16(device_type: str) -> bool:
    """Return whether a device type, ``cpu`` or ``cuda``, computes bf16 natively instead of emulating it."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Private: the public `torch.cpu.get_capabilities` is newer than the oldest torch that we support.
    return device_type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


@lru_cache(maxsize=1)
def _has_tensor_cores() -> bool:
    """Return whether the GPU is a V100 or newer; many older GPUs are slower in fp16 than in fp32."""
    return torch.cuda.get_device_capability() >= (7, 0)
