"""Advice for a GPU that runs out of memory, because the same message would fail again."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from flwr.app import MessageType

from fedserdiff import wire
from fedserdiff.methods import get_method
from fedserdiff.networks import UNET
from fedserdiff.settings.experiment import Settings

_LEAST_CHANNELS = 8

_GROWS_WITH: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        MessageType.TRAIN: ("training.batch_size", "replay.batch_size"),
        wire.CONSOLIDATE: ("training.batch_size", "replay.shared_maps"),
    }
)
"""Settings that increase the memory needed, by message type. Scoring takes one volume at a time."""

_SIZE = r"([\d.]+) (bytes|[KMGT]iB)"
_BYTES = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def what_to_lower(config: Settings, message_type: str = MessageType.TRAIN, share: float = 0.5) -> str:
    """Return a text on which settings to lower, and to what, if a hospital's GPU memory is full.

    Parameters
    ----------
    config : Settings
        Settings of the run.
    message_type : str
        Type of the message that the hospital was answering.
    share : float
        Share of the needed memory that is available. The advice uses at most half, since a failed step has not shown
        its full need (our choice).
    """
    lowered = [
        f"{name} (now {now}) to {max(1, int(now * min(share, 0.5)))}"
        for name in _GROWS_WITH.get(message_type, ())
        if (now := config.value(name)) > 1 and _in_use(name, config)
    ]
    advice = [f"lower {' and '.join(lowered)}"] if lowered else []
    if message_type == MessageType.TRAIN:
        advice = _in_smaller_passes(config, min(share, 0.5)) or advice
    if 0 < config.machine.gpus_per_site < 1:
        advice.insert(
            0,
            f"raise machine.gpus_per_site (now {config.machine.gpus_per_site:g}) to 1: a hospital then has a whole GPU",
        )
    if not advice:
        widths = ["network.coarse_channels"] if config.network.coarse == UNET else []
        widths.append("network.refiner_channels")
        halved = {name: _halved(config.value(name)) for name in widths}
        advice = [
            f"lower {name} (now {config.value(name)}) to {to}" for name, to in halved.items() if to is not None
        ] or [
            f"lower training.patch (now {config.training.patch})"
            if config.training.patch
            else f"raise data.spacing_mm (now {config.data.spacing_mm:g}) and lower data.grid (now {config.data.grid})"
        ]
    return ", or ".join(advice)


def _in_smaller_passes(config: Settings, share: float) -> list[str]:
    """Return how a step with as many samples can use less memory; empty if it already does."""
    training = config.training
    replayed = config.replay.batch_size if _in_use("replay.batch_size", config) else 0
    at_a_time = training.samples_a_pass or training.batch_size + replayed
    if at_a_time > 1:
        now = "0, all of a step's" if training.samples_a_pass == 0 else training.samples_a_pass
        return [f"lower training.samples_a_pass (now {now}) to {max(1, int(at_a_time * share))}"]
    return [] if training.checkpointing else ["set training.checkpointing to true"]


def share_of_need(told: str) -> float:
    """Return the share of the needed memory that was available, from torch's error message; 1 if it does not say."""
    needed = _bytes(rf"Tried to allocate {_SIZE}", told) + _bytes(rf"{_SIZE} is allocated by PyTorch", told)
    room = sum(_bytes(rf"{_SIZE} is {what}", told) for what in ("free", "allocated by PyTorch", "reserved by PyTorch"))
    return min(1.0, room / needed) if needed and room else 1.0


def _bytes(pattern: str, told: str) -> float:
    found = re.search(pattern, told)
    return float(found[1]) * _BYTES[found[2]] if found else 0.0


def _in_use(name: str, config: Settings) -> bool:
    """Return whether a method draws samples of this kind."""
    method = get_method(config.method.name)
    if name == "replay.batch_size":
        return bool({"distillation", "replay"} & set(method.terms)) and getattr(config.method, "lambda_kd", 0) > 0
    return name != "replay.shared_maps" or bool({wire.ERROR_MAPS, wire.SYNTHETIC_IMAGES} & {*method.hands_over_all})


def _halved(channels: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return half the features of each level; None if they would not be multiples of 8."""
    half = tuple(n // 2 for n in channels)
    return half if all(n >= _LEAST_CHANNELS and n % _LEAST_CHANNELS == 0 for n in half) else None
