"""SER-Diff at the coordinator: a teacher that is sent when it changes, and a bank of synthetic error maps."""

from fedserdiff import wire
from strategies.replay_bank import BankingStream
from strategies.teaching import TeachingStream


class SerDiff(BankingStream, TeachingStream):
    """Replay the teacher's synthetic error maps in later stages (arXiv 2510.06283)."""

    banked = wire.ERROR_MAPS

    def consolidates(self) -> bool:
        """Return whether to ask for maps: if the student becomes a teacher and the config lets maps leave."""
        return self.becomes_teacher() and self.config.shared_error_maps != "none"
