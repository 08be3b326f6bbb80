"""Messages about a GPU whose memory is full."""

import pytest

from fedserdiff.gpu_memory import share_of_need, what_to_lower
from fedserdiff.settings.sources import make_settings

TOLD = (
    "CUDA out of memory. Tried to allocate {tried}. GPU 0 has a total capacity of 79.10 GiB of which {free} is free. "
    "Including non-PyTorch memory, this process has 78.00 GiB memory in use. Of the allocated memory {allocated} is "
    "allocated by PyTorch, and {reserved} is reserved by PyTorch but unallocated. If reserved but unallocated memory "
    "is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
"""As torch 2.13 says it."""

ONE = {"training.samples_a_pass": 1}
LEAST = {**ONE, "training.checkpointing": True}


@pytest.mark.parametrize(
    ("tried", "free", "allocated", "reserved", "share"),
    [
        ("20.00 GiB", "8.00 GiB", "60.00 GiB", "2.00 GiB", 70 / 80),
        ("90.00 GiB", "19.00 GiB", "10.00 GiB", "1.00 GiB", 30 / 100),
        ("512.00 MiB", "256.00 MiB", "1.00 GiB", "0 bytes", 1280 / 1536),
        ("1.00 GiB", "3.00 GiB", "10.00 GiB", "0 bytes", 1.0),
    ],
)
def test_what_there_was_room_for_is_read_from_torchs_own_figures(
    tried: str, free: str, allocated: str, reserved: str, share: float
) -> None:
    told = TOLD.format(tried=tried, free=free, allocated=allocated, reserved=reserved)
    assert share_of_need(told) == pytest.approx(share)
    assert share_of_need("CUDA error: out of memory") == 1


@pytest.mark.parametrize(
    ("message_type", "settings", "advice"),
    [
        ("train", {}, "lower training.samples_a_pass (now 4) to 2"),
        ("train", {"training.samples_a_pass": 0}, "lower training.samples_a_pass (now 0, all of a step's) to 4"),
        (
            "train",
            {"training.samples_a_pass": 0, "method": "ewc"},
            "lower training.samples_a_pass (now 0, all of a step's) to 2",
        ),
        (
            "train",
            {"training.samples_a_pass": 0, "method.lambda_kd": 0.0},
            "lower training.samples_a_pass (now 0, all of a step's) to 2",
        ),
        ("train", ONE, "set training.checkpointing to true"),
        ("train", LEAST, "lower training.batch_size (now 4) to 2 and replay.batch_size (now 4) to 2"),
        ("train", {**LEAST, "method": "fine-tune"}, "lower training.batch_size (now 4) to 2"),
        ("train", {**LEAST, "training.batch_size": 1}, "lower replay.batch_size (now 4) to 2"),
        ("train.consolidate", {"method": "ewc"}, "lower training.batch_size (now 4) to 2"),
        ("train.consolidate", {}, "lower training.batch_size (now 4) to 2 and replay.shared_maps (now 16) to 8"),
        (
            "train",
            {"method": "fine-tune", "machine.gpus_per_site": 0.25},
            "raise machine.gpus_per_site (now 0.25) to 1: a hospital then has a whole GPU, "
            "or lower training.samples_a_pass (now 4) to 2",
        ),
        (
            "evaluate",
            {},
            "lower network.coarse_channels (now (32, 64, 128, 256)) to (16, 32, 64, 128), "
            "or lower network.refiner_channels (now (32, 64, 128, 256)) to (16, 32, 64, 128)",
        ),
        (
            "train",
            {
                **LEAST,
                "method": "fine-tune",
                "training.batch_size": 1,
                "network.coarse_channels": (8, 16),
                "network.refiner_channels": (8, 16),
            },
            "raise data.spacing_mm (now 1) and lower data.grid (now (160, 192, 160))",
        ),
        (
            "evaluate",
            {
                "training.patch": (64, 64, 64),
                "network.coarse_channels": (8, 16),
                "network.refiner_channels": (8, 16),
            },
            "lower training.patch (now (64, 64, 64))",
        ),
    ],
)
def test_the_advice_names_what_the_memory_grows_with_and_is_a_config_that_may_be(
    message_type: str, settings: dict[str, object], advice: str
) -> None:
    assert what_to_lower(make_settings("paper", {"method": "ser-diff", **settings}), message_type) == advice


@pytest.mark.parametrize(("share", "to"), [(1.0, 8), (0.9, 8), (0.5, 8), (0.3, 4), (0.01, 1)])
def test_by_how_much_follows_from_what_there_is_room_for(share: float, to: int) -> None:
    config = make_settings("paper", {"training.samples_a_pass": 16}, method="fine-tune")
    assert what_to_lower(config, "train", share) == f"lower training.samples_a_pass (now 16) to {to}"
