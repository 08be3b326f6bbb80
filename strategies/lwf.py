"""Learning without Forgetting at the coordinator: the last stage's student teaches the next."""

from strategies.teaching import TeachingStream


class Lwf(TeachingStream):
    """Send each hospital the last stage's student; only students come back."""

    def becomes_teacher(self) -> bool:
        """Every stage's student teaches the next."""
        return True
