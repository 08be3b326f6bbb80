"""A frozen student as teacher: the common part of the coordinator's halves of SER-Diff and related methods."""

from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.methods.method import Distilling
from fedserdiff.settings.experiment import Settings
from strategies.stream import ArrivalStream


class TeachingStream(ArrivalStream):
    """Freeze a stage's student as teacher, and send it to each hospital once.

    With ``teacher = "first"`` the student of stage 1 stays the teacher, as in the paper. With ``"latest"`` each stage's
    student teaches the next stage.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._teacher_at: dict[str, int] = {}

    def becomes_teacher(self) -> bool:
        """Return whether this stage's student becomes the teacher."""
        return self.stage == 1 or Distilling.of(self.config.method).teacher == "latest"

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the teacher, unless the site has already answered a round with it."""
        if self.teacher is None or self._teacher_at.get(site) == self.teacher_stage:
            return {}
        return {wire.teacher_record(self.teacher_stage): self.teacher}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Remember that the site has the teacher."""
        self._teacher_at[site] = self.teacher_stage

    def state_dict(self) -> dict[str, Any]:
        """Return the teacher, and which teacher each site has."""
        teacher = None if self.teacher is None else self.teacher.to_torch_state_dict()
        return {"teacher": teacher, "teacher_stage": self.teacher_stage, "teacher_at": dict(self._teacher_at)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the teacher, and which teacher each site keeps on its own disk."""
        self.teacher = None if state["teacher"] is None else ArrayRecord(state["teacher"])
        self.teacher_stage = state["teacher_stage"]
        self._teacher_at = dict(state["teacher_at"])

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Freeze the stage's student if it becomes the teacher."""
        if self.becomes_teacher():
            self.teacher = arrays
            self.teacher_stage = self.stage
