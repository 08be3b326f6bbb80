"""No federation: each hospital trains its own student from scratch and keeps it."""

from collections.abc import Sequence

from flwr.app import ArrayRecord

from strategies.stream import ArrivalStream, Stage


class Local(ArrivalStream):
    """What each hospital reaches without the others: the lower bound of any collaboration."""

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return one stage for each site, in which only that site trains, for every participation and timetable."""
        return [Stage(site, (site,)) for site in sites]

    def initial(self, untrained: ArrayRecord, standing: ArrayRecord) -> ArrayRecord:
        """Start every stage from the untrained student."""
        return untrained

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Return each site's own stage, whose student it uses."""
        return list(range(1, len(sites) + 1))

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """Return no arrivals, because no site gets another site's student."""
        return []
