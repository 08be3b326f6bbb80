"""Fine-tuning at the coordinator: pass the student on."""

from strategies.stream import ArrivalStream


class FineTune(ArrivalStream):
    """Each stage trains the student it receives; only weights cross the wire."""
