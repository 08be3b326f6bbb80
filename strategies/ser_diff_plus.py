"""SER-Diff+ at the coordinator: the latest student teaches, and a bank holds maps of the latest stage alone."""

from flwr.app import RecordDict

from fedserdiff.settings.experiment import Settings
from strategies.replay_bank import ReplayBank
from strategies.ser_diff import SerDiff


class SerDiffPlus(SerDiff):
    """SER-Diff whose every stage's student becomes the teacher.

    Nothing that it keeps grows with the stream. Adapters stay in their hospitals.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._bank_of = 0

    def keep(self, site: str, content: RecordDict) -> None:
        """Put a site's maps in the place of those of earlier stages."""
        if self._bank_of != self.stage:
            self.bank, self._bank_of = ReplayBank(), self.stage
        super().keep(site, content)
