"""Elastic weight consolidation at the coordinator: the Fisher information of all earlier stages, summed."""

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from strategies.teaching import TeachingStrategy


class Ewc(TeachingStrategy):
    """Send each hospital the last stage's student, as anchor, and the importance of each of its weights."""

    def __init__(self, config: ExperimentConfig, events: RunEvents) -> None:
        super().__init__(config, events)
        self._fisher: dict[str, NDArray[np.float32]] = {}

    def becomes_teacher(self) -> bool:
        """Every stage's student is the next one's anchor."""
        return True

    def consolidates(self) -> bool:
        """Ask for the Fisher information of every stage."""
        return True

    def keep(self, site: str, content: RecordDict) -> None:
        """Add a participant's share of the stage's Fisher information.

        Raises
        ------
        FederationError
            Where it does not fit the student, or is not finite.
        """
        for name, array in content.array_records[wire.FISHER].items():
            values = array.numpy()
            if name not in self.standing or values.shape != tuple(self.standing[name].shape):
                raise FederationError(f"{site}: Fisher information of {name} does not fit the student")
            if not np.isfinite(values).all():
                raise FederationError(f"{site}: Fisher information of {name} is not finite")
            share = (values / len(self.plan.participants)).astype(np.float32)
            self._fisher[name] = self._fisher[name] + share if name in self._fisher else share

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the anchor where it is due, and the Fisher information."""
        fisher = {wire.FISHER: ArrayRecord({k: Array(v) for k, v in self._fisher.items()})} if self._fisher else {}
        return super().records_for(site, server_round) | fisher
