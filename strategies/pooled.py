"""Raw-data pooling at the coordinator: one stage for the whole stream. Breaks privacy."""

from collections.abc import Sequence

from strategies.stream import ArrivalStream, Stage


class Pooled(ArrivalStream):
    """One imaginary hospital (played by the first site) trains as many steps as the whole stream would."""

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return the one stage; an epoch of every site's items is as long as one of each already."""
        length = len(sites) if self.config.training.steps_per_stage else 1
        return [Stage("pooled", (sites[0],), length=length, pools=True)]

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """No site arrives after another."""
        return []
