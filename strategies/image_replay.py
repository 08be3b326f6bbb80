"""Image replay at the coordinator: a bank of synthetic images with masks."""

from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.methods.image_replay import ImageReplaySettings
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from strategies.base import ArrivalStrategy
from strategies.replay_bank import ReplayBank


class ImageReplay(ArrivalStrategy):
    """Keep the images of the first site's generator, or, with ``teacher = "latest"``, of every site's."""

    def __init__(self, config: Settings, events: RunEvents) -> None:
        super().__init__(config, events)
        self.bank = ReplayBank()

    def consolidates(self) -> bool:
        """Ask for images wherever SER-Diff would make a teacher."""
        return self.stage == 1 or ImageReplaySettings.of(self.config.method).teacher == "latest"

    def keep(self, site: str, content: RecordDict) -> None:
        """Add a site's images to the bank."""
        self.bank.add(site, content.array_records[wire.SYNTHETIC_IMAGES])

    def kept(self) -> dict[str, Any]:
        """Return the bank's samples."""
        return {"bank": self.bank.samples}

    def take_back(self, kept: dict[str, Any]) -> None:
        """Fill the bank."""
        self.bank = ReplayBank(kept["bank"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the bank."""
        return {wire.SYNTHETIC_IMAGES: self.bank.to_record()} if len(self.bank) else {}
