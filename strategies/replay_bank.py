"""What the coordinator keeps of the sites that shared it, to be replayed: error maps, images, moments of lesions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.stream import ArrivalStream, Stage

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

    def drop(self, site: str) -> None:
        """Keep nothing of a site any more."""
        if self._samples.pop(site, None) is not None:
            self._record = None

    def to_record(self) -> ArrayRecord:
        """Return all samples, sites in order of their first sharing; the bank must hold some.

        They are packed once for all messages until a site adds to them.
        """
        if self._record is None:
            sites = list(self._samples.values())
            self._record = wire.samples_to_record({name: torch.cat([s[name] for s in sites]) for name in sites[0]})
        return self._record


class BankingStream(ArrivalStream):
    """Keep what sites hand over in a bank, and send it with each later round until they leave.

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
        """Drop what sites handed over that leave."""
        super().begin_stage(stage, plan)
        for site in plan.leaving:
            self.bank.drop(site)

    def keep(self, site: str, content: RecordDict) -> None:
        """Add what a site handed over to the bank."""
        self.bank.add(site, content.array_records[self.banked])

    def state_dict(self) -> dict[str, Any]:
        """Return the bank's samples, too."""
        return super().state_dict() | {"bank": self.bank.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Fill the bank."""
        super().load_state_dict(state)
        self.bank = ReplayBank(state["bank"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the bank beside what goes anyway."""
        bank = {self.banked: self.bank.to_record()} if len(self.bank) else {}
        return super().records_for(site, server_round) | bank
