"""SCAFFOLD at the coordinator: the mean of all hospitals' control variates (arXiv 1910.06378)."""

from typing import Any

from flwr.app import Array, ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings
from strategies.stream import ArrivalStream


class Scaffold(ArrivalStream):
    """Send c, the mean of the control variates of a stage's hospitals, and add to it what each says of its own.

    A hospital that has not trained yet has a control variate of 0. Hospitals count the same whatever their cases, as in
    the paper. Each stage begins with none.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._control: ArrayRecord | None = None

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return c, float32, where there is one."""
        return {} if self._control is None else {wire.CONTROL: self._control}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Add a hospital's share of its change."""
        changed = content.array_records[wire.CONTROL]
        before = {} if self._control is None else {name: array.numpy() for name, array in self._control.items()}
        share = 1 / len(self.plan.participants)
        self._control = ArrayRecord(
            {name: Array(before.get(name, 0) + share * array.numpy()) for name, array in changed.items()}
        )

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Forget the control variate: the next stage has other hospitals."""
        self._control = None

    def state_dict(self) -> dict[str, Any]:
        """Return the control variate."""
        return {"control": None if self._control is None else self._control.to_torch_state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the control variate of a process that has ended."""
        self._control = None if state["control"] is None else ArrayRecord(state["control"])
