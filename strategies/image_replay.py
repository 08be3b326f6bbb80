"""Image replay at the coordinator: a bank of synthetic images with masks."""

from fedserdiff import wire
from fedserdiff.methods.image_replay import ImageReplaySettings
from strategies.replay_bank import BankingStream


class ImageReplay(BankingStream):
    """Keep the images of the first site's generator or, with ``teacher = "latest"``, of every site's generator."""

    banked = wire.SYNTHETIC_IMAGES

    def consolidates(self) -> bool:
        """Return whether to ask for images: at the stages where SER-Diff would freeze a teacher."""
        return self.stage == 1 or ImageReplaySettings.of(self.config.method).teacher == "latest"
