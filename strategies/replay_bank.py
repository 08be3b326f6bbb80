"""The replay bank at the coordinator: error maps, images or lesion moments by the site that shared them."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.stream import ArrivalStream, Stage

Samples = Mapping[str, torch.Tensor]


class ReplayBank:
    """Samples by the site that shared them. A site that shares again replaces its earlier samples."""

    def __init__(self, samples: Mapping[str, Samples] | None = None) -> None:
        self._samples: dict[str, Samples] = dict(samples or {})
        self._record: ArrayRecord | None = None

    def __len__(self) -> int:
        return sum(len(next(iter(arrays.values()))) for arrays in self._samples.values())

    @property
    def samples(self) -> dict[str, Samples]:
        """Samples by site."""
        return dict(self._samples)

    def add(self, site: str, record: ArrayRecord) -> None:
        """Store a site's samples, which have already been checked and unpacked."""
        self._samples[site] = record.to_torch_state_dict()
        self._record = None

    def drop(self, site: str) -> None:
        """Delete a site's samples."""
        if self._samples.pop(site, None) is not None:
            self._record = None

    def to_record(self) -> ArrayRecord:
        """Return all samples, with sites in order of their first sharing; the bank must not be empty.

        They are packed once for all messages, until a site adds to them.
        """
        if self._record is None:
            sites = list(self._samples.values())
            self._record = wire.samples_to_record({name: torch.cat([s[name] for s in sites]) for name in sites[0]})
        return self._record


class BankingStream(ArrivalStream):
    """Keep what sites hand over in a bank, and send the bank with each later round. Sites that leave are removed.

    Attributes
    ----------
    banked : str
        Name of the record.
    bank : ReplayBank
    """

    banked: ClassVar[str]

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.bank = ReplayBank()

    def begin_stage(self, stage: int, plan: Stage) -> None:
        """Remove the samples of sites that leave."""
        super().begin_stage(stage, plan)
        for site in plan.leaving:
            self.bank.drop(site)

    def keep(self, site: str, content: RecordDict) -> None:
        """Add what a site handed over to the bank."""
        self.bank.add(site, content.array_records[self.banked])

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the bank's samples."""
        return super().state_dict() | {"bank": self.bank.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the bank."""
        super().load_state_dict(state)
        self.bank = ReplayBank(state["bank"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the bank in addition to the other records."""
        bank = {self.banked: self.bank.to_record()} if len(self.bank) else {}
        return super().records_for(site, server_round) | bank
