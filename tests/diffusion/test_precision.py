import pytest
import torch

from fedserdiff.diffusion import precision
from fedserdiff.diffusion.precision import autocast

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
        assert product_in("bf16") == torch.bfloat16, "whatever the processor has"
        assert product_in("fp32") == torch.float32
    finally:
        precision.has_bf16.cache_clear()
