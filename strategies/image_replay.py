"""Image replay at the coordinator: a bank of synthetic images with masks."""

from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.methods.image_replay import ImageReplaySettings
from fedserdiff.settings.experiment import Settings
from strategies.replay_bank import ReplayBank
from strategies.stream import ArrivalStream


class ImageReplay(ArrivalStream):
    """Keep the images of the first site's generator, or, with ``teacher = "latest"``, of every site's."""

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self.bank = ReplayBank()

    def consolidates(self) -> bool:
        """Ask for images wherever SER-Diff would make a teacher."""
        return self.stage == 1 or ImageReplaySettings.of(self.config.method).teacher == "latest"

    def keep(self, site: str, content: RecordDict) -> None:
        """Add a site's images to the bank."""
        self.bank.add(site, content.array_records[wire.SYNTHETIC_IMAGES])

    def state_dict(self) -> dict[str, Any]:
        """Return the bank's samples."""
        return {"bank": self.bank.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Fill the bank."""
        self.bank = ReplayBank(state["bank"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the bank."""
        return {wire.SYNTHETIC_IMAGES: self.bank.to_record()} if len(self.bank) else {}
