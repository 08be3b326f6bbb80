"""Raw-data pooling at the coordinator: one stage for the whole stream. Breaks privacy."""

from collections.abc import Sequence

from strategies.stream import ArrivalStream, Stage


class Pooled(ArrivalStream):
    """One imaginary hospital, represented by the first site, trains as many steps as the whole stream would."""

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return a single stage; in epochs it needs no extra length, because an epoch covers all sites' items."""
        length = len(sites) if self.config.training.steps_per_stage else 1
        return [Stage("pooled", (sites[0],), length=length, pools=True)]

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """Return no arrivals, because no site arrives after another."""
        return []
