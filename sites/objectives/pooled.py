"""Raw-data pooling: the loss of fine-tuning on all hospitals' training cases. Breaks privacy."""

from collections.abc import Callable, Sequence

from fedserdiff.data.cache import CachedCase
from fedserdiff.settings.experiment import Site
from sites.hospital import Hospital
from sites.objectives.fine_tune import FineTuneObjective


class PooledObjective(FineTuneObjective):
    """L = L_seg on the union of all hospitals' training cases."""

    def training_cases(
        self, hospital: Hospital, stage: int, open_site: Callable[[Site], Hospital]
    ) -> Sequence[CachedCase]:
        """Return every site's training cases, in order of arrival."""
        return [case for site in self.config.sites for case in open_site(site).training]

    def validation_cases(self, hospital: Hospital, open_site: Callable[[Site], Hospital]) -> Sequence[CachedCase]:
        """Return every site's validation cases, in order of arrival."""
        return [case for site in self.config.sites for case in open_site(site).validation]
