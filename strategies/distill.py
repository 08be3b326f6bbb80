"""Feature distillation at the coordinator: a teacher travels, and nothing is replayed."""

from strategies.teaching import TeachingStream


class Distill(TeachingStream):
    """The teacher's weights reach each hospital once; only students come back."""
