"""SER-Diff at the coordinator: a teacher that travels when it changes, and a bank of synthetic error maps."""

from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.replay_bank import ReplayBank
from strategies.teaching import TeachingStream


class SerDiff(TeachingStream):
    """Replay the teacher's synthetic error maps in later stages (arXiv 2510.06283)."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.bank = ReplayBank()

    def consolidates(self) -> bool:
        """Ask for maps of every student that becomes a teacher, where the config lets maps leave."""
        return self.becomes_teacher() and self.config.shared_error_maps != "none"

    def keep(self, site: str, content: RecordDict) -> None:
        """Add a site's maps to the bank."""
        self.bank.add(site, content.array_records[wire.ERROR_MAPS])

    def state_dict(self) -> dict[str, Any]:
        """Return the bank's samples, too."""
        return super().state_dict() | {"bank": self.bank.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Fill the bank."""
        super().load_state_dict(state)
        self.bank = ReplayBank(state["bank"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the teacher where it is due, and the bank."""
        bank = {wire.ERROR_MAPS: self.bank.to_record()} if len(self.bank) else {}
        return super().records_for(site, server_round) | bank
