"""Lesion replay at the coordinator: every hospital's moments are kept, and the latest student teaches."""

from fedserdiff import wire
from strategies.replay_bank import BankingStream
from strategies.teaching import TeachingStream


class LesionReplay(BankingStream, TeachingStream):
    """Send each hospital the moments of the others' lesions: what grows with the stream is some 130 numbers a site."""

    banked = wire.LESION_MOMENTS

    def consolidates(self) -> bool:
        """Ask for the moments of every stage's participants."""
        return True
