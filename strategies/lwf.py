"""Learning without Forgetting at the coordinator: each stage's student teaches the next stage."""

from strategies.teaching import TeachingStream


class Lwf(TeachingStream):
    """Send each hospital the last stage's student as teacher; hospitals return only students."""

    def becomes_teacher(self) -> bool:
        """Return True: every stage's student teaches the next stage."""
        return True
