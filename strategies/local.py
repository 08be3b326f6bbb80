"""No federation: each hospital trains a student of its own, from scratch, and keeps it."""

from collections.abc import Sequence

from flwr.app import ArrayRecord

from strategies.stream import ArrivalStream, Stage


class Local(ArrivalStream):
    """What a hospital has without the others: the lower bound of any collaboration."""

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return one stage a site, of that site alone whatever the participation and the timetable."""
        return [Stage(site, (site,)) for site in sites]

    def initial(self, untrained: ArrayRecord, standing: ArrayRecord) -> ArrayRecord:
        """Start every stage from the untrained student."""
        return untrained

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Each site uses the student of its own stage."""
        return list(range(1, len(sites) + 1))

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """No site has another's student."""
        return []
