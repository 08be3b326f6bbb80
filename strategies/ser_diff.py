"""SER-Diff at the coordinator: a teacher that travels when it changes, and a bank of synthetic error maps."""

from flwr.app import ArrayRecord, RecordDict

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.data.releases import REGIONS
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy
from strategies.error_bank import ErrorBank


class SerDiff(ArrivalStrategy):
    """Freeze a student as teacher and replay synthetic error maps from it in later stages (arXiv 2510.06283).

    With ``teacher = "first"`` the student of stage 1 teaches for ever, as in the paper; with ``"latest"`` that of each
    stage teaches the next. Maps are asked for in the last round of a stage whose student becomes a teacher.
    """

    def __init__(self, config: ExperimentConfig, events: RunEvents) -> None:
        super().__init__(config, events)
        self.bank = ErrorBank((len(REGIONS), *config.grid[: config.spatial_dims]), config.shared_maps)
        self._teacher_at: dict[str, int] = {}

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the teacher, until the site has answered a round with it, and the bank."""
        records = {}
        if self.teacher is not None and self._teacher_at.get(site) != self.teacher_stage:
            records[wire.TEACHER] = self.teacher
        if self.teacher is not None and len(self.bank):
            records[wire.ERROR_BANK] = self.bank.to_record()
        return records

    def wants_maps(self, server_round: int) -> bool:
        """Ask for maps with the students that become a teacher."""
        becomes_teacher = self.stage == 1 or self.config.teacher == "latest"
        last = server_round == self.config.rounds
        return becomes_teacher and last and self.config.shared_error_maps != "none"

    def receive(self, site: str, content: RecordDict) -> None:
        """Move a reply's error maps into the bank (Flower averages replies of one ArrayRecord only)."""
        self._teacher_at[site] = self.teacher_stage
        if wire.ERROR_MAPS in content:
            self.bank.add(site, content.array_records[wire.ERROR_MAPS])
            del content[wire.ERROR_MAPS]

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Freeze the stage's student where it becomes the teacher."""
        if self.stage == 1 or self.config.teacher == "latest":
            self.teacher = arrays
            self.teacher_stage = self.stage
