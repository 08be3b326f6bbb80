import pytest
import torch

from fedserdiff.diffusion import precision
from fedserdiff.diffusion.precision import autocast, gradient_scaler

CPU = torch.device("cpu")


def product_in(chosen: str) -> torch.dtype:
    with autocast(chosen, CPU):  # type: ignore[arg-type]
        return torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype


@pytest.mark.parametrize("amx", [True, False])
def test_auto_is_bf16_where_the_processor_computes_in_it(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    precision.has_bf16.cache_clear()
    try:
        assert product_in("auto") == (torch.bfloat16 if amx else torch.float32)
        assert product_in("bf16") == torch.bfloat16, "on any processor"
        assert product_in("fp16") == torch.float16
        assert product_in("fp32") == torch.float32
    finally:
        precision.has_bf16.cache_clear()


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [((6, 1), False, "fp32"), ((7, 0), False, "fp16"), ((7, 5), False, "fp16"), ((9, 0), True, "bf16")],
)
def test_auto_on_a_gpu_is_what_its_tensor_cores_compute_in(
    capability: tuple[int, int], bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GTX 10, V100, T4 and RTX 20, H100."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    caches = (precision.has_bf16, precision._has_tensor_cores)
    for cache in caches:
        cache.cache_clear()
    try:
        assert precision.resolved("auto", "cuda") == expected
        assert precision.resolved("bf16", "cuda") == "bf16", "as it was asked for"
    finally:
        for cache in caches:
            cache.cache_clear()


def test_gradients_are_scaled_in_fp16_alone() -> None:
    assert gradient_scaler("fp16", CPU).is_enabled()
    loss = torch.tensor(3.0)
    for other in ("bf16", "fp32"):
        assert gradient_scaler(other, CPU).scale(loss) is loss  # type: ignore[arg-type]
