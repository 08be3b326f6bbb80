"""The synthetic samples that the coordinator keeps: error maps, or whole images with masks."""

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord

from fedserdiff import wire

Samples = Mapping[str, torch.Tensor]


class ReplayBank:
    """Samples by the site that shared them. A site that shares again replaces what it shared before."""

    def __init__(self, samples: Mapping[str, Samples] | None = None) -> None:
        self._samples: dict[str, Samples] = dict(samples or {})
        self._record: ArrayRecord | None = None

    def __len__(self) -> int:
        return sum(len(next(iter(arrays.values()))) for arrays in self._samples.values())

    @property
    def samples(self) -> dict[str, Samples]:
        """By site, what it shared."""
        return dict(self._samples)

    def add(self, site: str, record: ArrayRecord) -> None:
        """Keep a site's samples, which have been checked, and unpacked, on arrival."""
        self._samples[site] = record.to_torch_state_dict()
        self._record = None

    def to_record(self) -> ArrayRecord:
        """Return all samples, sites in order of their first sharing; the bank must hold some.

        They are packed once for all messages until a site adds to them.
        """
        if self._record is None:
            sites = list(self._samples.values())
            self._record = wire.samples_to_record({name: torch.cat([s[name] for s in sites]) for name in sites[0]})
        return self._record
