"""Elastic weight consolidation at the coordinator: the Fisher information of all earlier stages, summed."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.stream import Stage
from strategies.teaching import TeachingStream

Fisher = dict[str, NDArray[np.float32]]


class Ewc(TeachingStream):
    """Send each hospital the last stage's student as anchor, and the importance of each of its weights.

    Only the sum over stages is kept, of the mean over each stage's participants. Neither the state nor the size of
    messages grows with the stream.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._fisher: ArrayRecord | None = None
        self._of_stage: Fisher = {}  # the sum over the stage's participants
        self._participants = 0

    def becomes_teacher(self) -> bool:
        """Return True: every stage's student is the anchor of the next stage."""
        return True

    def consolidates(self) -> bool:
        """Return True: every stage's participants are asked for Fisher information."""
        return True

    def begin_stage(self, stage: int, plan: Stage) -> None:
        """Reset the stage's sum, because a resumed stage asks its participants again."""
        super().begin_stage(stage, plan)
        self._of_stage, self._participants = {}, 0

    def keep(self, site: str, content: RecordDict) -> None:
        """Add a participant's Fisher information to the stage's."""
        values = {name: array.numpy() for name, array in content.array_records[wire.FISHER].items()}
        self._of_stage = _sum(self._of_stage, values)
        self._participants += 1

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Freeze the student, and add the mean over the stage's participants to the sum over earlier stages."""
        super().end_stage(arrays)
        if self._participants:
            before = {} if self._fisher is None else {name: array.numpy() for name, array in self._fisher.items()}
            total = _sum(
                before, {name: values / np.float32(self._participants) for name, values in self._of_stage.items()}
            )
            self._fisher = ArrayRecord({name: Array(values) for name, values in total.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the sum over finished stages."""
        fisher = None if self._fisher is None else self._fisher.to_torch_state_dict()
        return super().state_dict() | {"fisher": fisher}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state with the sum over finished stages."""
        super().load_state_dict(state)
        self._fisher = None if state["fisher"] is None else ArrayRecord(state["fisher"])

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the anchor if the site does not have it yet, and the Fisher information of finished stages."""
        records = super().records_for(site, server_round)
        return records if self._fisher is None else records | {wire.FISHER: self._fisher}


def _sum(one: Fisher, other: Fisher) -> Fisher:
    """Add float32 values by name; an empty sum counts as 0."""
    return {name: one[name] + values if one else values for name, values in other.items()}
