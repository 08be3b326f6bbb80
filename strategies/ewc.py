"""Elastic weight consolidation at the coordinator: the Fisher information of all earlier stages, summed."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.report.events import RunEvents
from strategies.teaching import TeachingStrategy


class Ewc(TeachingStrategy):
    """Send each hospital the last stage's student, as anchor, and the importance of each of its weights."""

    def __init__(self, config: ExperimentConfig, events: RunEvents) -> None:
        super().__init__(config, events)
        self._fisher: dict[int, list[dict[str, NDArray[Any]]]] = defaultdict(list)  # by stage

    def becomes_teacher(self) -> bool:
        """Every stage's student is the next one's anchor."""
        return True

    def consolidates(self) -> bool:
        """Ask for the Fisher information of every stage."""
        return True

    def keep(self, site: str, content: RecordDict) -> None:
        """Keep a participant's Fisher information of the stage."""
        values = content.array_records[wire.FISHER].items()
        self._fisher[self.stage].append({name: array.numpy() for name, array in values})

    def kept(self) -> dict[str, Any]:
        """Return the Fisher information of each stage's participants, too."""
        fisher = {
            str(stage): [{name: torch.from_numpy(values) for name, values in one.items()} for one in those]
            for stage, those in self._fisher.items()
        }
        return super().kept() | {"fisher": fisher}

    def take_back(self, kept: dict[str, Any]) -> None:
        """Go on with the Fisher information of earlier stages."""
        super().take_back(kept)
        for stage, those in kept["fisher"].items():
            self._fisher[int(stage)] = [{name: values.numpy() for name, values in one.items()} for one in those]

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the anchor where it is due, and the Fisher information: the sum over stages of participants' mean."""
        if not self._fisher:
            return super().records_for(site, server_round)
        means = [
            {name: np.mean([one[name] for one in stage], axis=0) for name in stage[0]}
            for stage in self._fisher.values()
        ]
        total = {name: np.asarray(sum(mean[name] for mean in means), np.float32) for name in means[0]}
        fisher = ArrayRecord({name: Array(values) for name, values in total.items()})
        return super().records_for(site, server_round) | {wire.FISHER: fisher}
