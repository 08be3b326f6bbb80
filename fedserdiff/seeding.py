"""Every random generator of a run comes from here: a function of the config's seed and of what it is for."""

import zlib

import numpy as np
import torch

from fedserdiff.text import readable


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for one purpose, such as ``generator(seed, "batches", site, stage, round)``.

    Different purposes give independent streams; the same purpose gives the same stream on every machine, on a `device`
    of the same kind. What a device computes with is drawn there; what is looked up on the host is drawn on the CPU.
    """
    keys = [zlib.crc32(readable(part).encode()) if isinstance(part, str) else part for part in purpose]
    state = int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)
