"""The synthetic samples that the coordinator keeps: error maps, or whole images with masks."""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord

Samples = Mapping[str, torch.Tensor]


class ReplayBank:
    """Samples by the site that shared them. A site that shares again replaces what it shared before."""

    def __init__(self) -> None:
        self.samples: dict[str, Samples] = {}

    def __len__(self) -> int:
        return sum(len(next(iter(arrays.values()))) for arrays in self.samples.values())

    def add(self, site: str, record: ArrayRecord) -> None:
        """Keep a site's samples, which have been checked on arrival."""
        self.samples[site] = {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}

    def to_record(self) -> ArrayRecord:
        """Return all samples, sites in order of their first sharing; the bank must hold some."""
        sites = list(self.samples.values())
        return ArrayRecord({name: Array(np.concatenate([site[name].numpy() for site in sites])) for name in sites[0]})
