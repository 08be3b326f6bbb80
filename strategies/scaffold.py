"""SCAFFOLD at the coordinator: the mean of all hospitals' control variates (arXiv 1910.06378)."""

from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.stream import ArrivalStream


class Scaffold(ArrivalStream):
    """Send c, the mean of the control variates of a stage's hospitals, and update it with the changes of theirs.

    A hospital that has not trained yet has a control variate of 0. Hospitals count equally regardless of their cases,
    as in the paper. Each stage starts without control variates.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._control: ArrayRecord | None = None

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return c, float32, if there is one."""
        return {} if self._control is None else {wire.CONTROL: self._control}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Add a hospital's change, divided by the number of participants."""
        changed = content.array_records[wire.CONTROL]
        before = {} if self._control is None else {name: array.numpy() for name, array in self._control.items()}
        share = 1 / len(self.plan.participants)
        self._control = ArrayRecord(
            {name: Array(before.get(name, 0) + share * array.numpy()) for name, array in changed.items()}
        )

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Discard the control variate, because the next stage has other hospitals."""
        self._control = None

    def state_dict(self) -> dict[str, Any]:
        """Return the control variate."""
        return {"control": None if self._control is None else self._control.to_torch_state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the control variate."""
        self._control = None if state["control"] is None else ArrayRecord(state["control"])
