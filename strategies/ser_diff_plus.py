"""SER-Diff+ at the coordinator: the latest student is the teacher, and the bank only has maps of the latest stage."""

from flwr.app import RecordDict

from fedserdiff.settings.experiment import Settings
from strategies.replay_bank import ReplayBank
from strategies.ser_diff import SerDiff


class SerDiffPlus(SerDiff):
    """SER-Diff in which every stage's student becomes the teacher.

    Its state does not grow with the stream. Adapters stay in their hospitals.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__(config)
        self._bank_of = 0

    def keep(self, site: str, content: RecordDict) -> None:
        """Store a site's maps, replacing those of earlier stages."""
        if self._bank_of != self.stage:
            self.bank, self._bank_of = ReplayBank(), self.stage
        super().keep(site, content)
