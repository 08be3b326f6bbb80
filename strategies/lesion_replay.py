"""Lesion replay at the coordinator: every hospital's moments are kept, and the latest student is the teacher."""

from flwr.app import RecordDict

from fedserdiff import wire
from fedserdiff.lesions.moments import nothing_to_share
from fedserdiff.lesions.retention import watched_places
from fedserdiff.methods.lesion_replay import LesionReplaySettings
from strategies.replay_bank import BankingStream
from strategies.teaching import TeachingStream


class LesionReplay(BankingStream, TeachingStream):
    """Send each hospital the moments of the others' lesions, which grow by about 130 numbers with each site."""

    banked = wire.LESION_MOMENTS

    def watched(self, server_round: int) -> dict[int, str]:
        """Return the sites with moments in the bank; hospitals score both students on their painted lesions."""
        samples = self.bank.samples
        patients = [float(moments["patients"]) for moments in samples.values()]
        return {place: [*samples][place - 1] for place in watched_places(self.config, server_round, patients)}

    def note_on(self, site: str, content: RecordDict) -> str:
        """Return a note if a site's moments are of no patient."""
        if float(content.array_records[self.banked]["patients"].numpy().sum()):
            return ""
        return f"{site} {nothing_to_share(LesionReplaySettings.of(self.config.method).least_patients)}"

    def consolidates(self) -> bool:
        """Return True: the participants of every stage are asked for moments."""
        return True
