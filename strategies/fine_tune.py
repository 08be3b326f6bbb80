"""Fine-tuning at the coordinator: hand the student on."""

from strategies.stream import ArrivalStream


class FineTune(ArrivalStream):
    """Each stage trains the student it is handed; nothing beside weights crosses the wire."""
