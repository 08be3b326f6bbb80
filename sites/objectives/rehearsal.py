"""Rehearsal: raw cases of every earlier hospital are kept and trained on again. Breaks privacy."""

from collections.abc import Callable, Sequence

import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.methods.rehearsal import RehearsalSettings
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings, Site
from sites.hospital import Hospital
from sites.objectives.fine_tune import FineTuneObjective


class RehearsalObjective(FineTuneObjective):
    """L = L_seg on the hospital's own training cases and the replay buffer, drawn with equal probability."""

    def training_cases(
        self, hospital: Hospital, stage: int, open_site: Callable[[Site], Hospital]
    ) -> Sequence[CachedCase]:
        """Return the buffers of the earlier sites that have not left, in order of arrival, and then the own cases."""
        there = self.config.timetable.before(stage)
        past = [site for site in self.config.sites if site.name in there and site != hospital.site]
        return [*(case for site in past for case in buffer(open_site(site), self.config)), *hospital.training]


def buffer(hospital: Hospital, config: Settings) -> list[CachedCase]:
    """Return the training cases that a site leaves in the buffer: those of a share of its patients, at least one.

    The draw depends on seed and site, so a site always leaves the same patients.
    """
    patients = sorted({cached.case.patient for cached in hospital.training})
    count = max(1, round(RehearsalSettings.of(config.method).share * len(patients)))
    drawn = torch.randperm(len(patients), generator=generator(config.seed, "rehearsal", hospital.site.name))[:count]
    kept = {patients[int(number)] for number in drawn}
    return [cached for cached in hospital.training if cached.case.patient in kept]
