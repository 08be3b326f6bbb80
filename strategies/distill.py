"""Feature distillation at the coordinator: a teacher is sent, and nothing is replayed."""

from strategies.teaching import TeachingStream


class Distill(TeachingStream):
    """Send each hospital the teacher's weights once; hospitals return only students."""
