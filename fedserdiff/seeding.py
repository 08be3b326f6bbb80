"""All random generators of a run, as a function of the configuration's seed and of their purpose."""

import zlib

import numpy as np
import torch

from fedserdiff.text import readable


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator for one purpose, such as ``generator(seed, "batches", site, stage, round)``.

    Different purposes give independent streams. The same purpose gives the same stream on every machine, for a `device`
    of the same type. Numbers that a device computes with are drawn there; numbers used on the host are drawn on the
    CPU.
    """
    keys = [zlib.crc32(readable(part).encode()) if isinstance(part, str) else part for part in purpose]
    state = int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)
