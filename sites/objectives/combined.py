"""Combination of several methods' objectives: the loss is a list of terms, and each method adds some."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Site
from fedserdiff.wire import Memory
from sites.hospital import Hospital
from sites.objectives.base import SEGMENTATION, Objective
from sites.training_set import Batch, TrainingSet


class CombinedObjective(Objective):
    """L = L_seg + the terms of every part. The first part determines the cases and the adapter.

    Parameters
    ----------
    parts : sequence of Objective
    terms : sequence of collections of str
        Names of the terms that each part reports. Parts share only L_seg, which belongs to the first one.
    """

    def __init__(self, parts: Sequence[Objective], terms: Sequence[Collection[str]]) -> None:
        first = parts[0]
        super().__init__(first.config, first.teacher, first.memory, first.adapter)
        self._parts = parts
        self.corrects = any(part.corrects for part in parts)
        self._part_of = {t: part for part, own in reversed(list(zip(parts, terms, strict=True))) for t in own}

    def training_cases(
        self, hospital: Hospital, stage: int, open_site: Callable[[Site], Hospital]
    ) -> Sequence[CachedCase]:
        """Return the first part's cases."""
        return self._parts[0].training_cases(hospital, stage, open_site)

    def validation_cases(self, hospital: Hospital, open_site: Callable[[Site], Hospital]) -> Sequence[CachedCase]:
        """Return the first part's cases."""
        return self._parts[0].validation_cases(hospital, open_site)

    def received(self, student: Student) -> None:
        """Let every part process the student. What the hospital kept for itself belongs to the first part."""
        self._parts[0].own = self.own
        for part in self._parts:
            part.received(student)

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Prepare every part."""
        for part in self._parts:
            part.begin(training_set, site, stage, server_round)
        self.adapter = self._parts[0].adapter

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return the lessons of all parts; their additions to the batch's lesson are merged into one."""
        first, *others = self._parts
        lessons = first.lessons(batch, noise)
        own = lessons[SEGMENTATION]
        with torch.no_grad():
            seen = replace(batch, image=self.seen(batch.image))
        for part in others:
            added = part.lessons(seen, noise)
            more = added.pop(SEGMENTATION)
            given = {name: value for name in ("old_map", "replay") if (value := getattr(more, name)) is not None}
            if more.teacher is not None:
                given |= {"teacher": more.teacher, "taught": more.taught, "gamma": more.gamma}
            own = replace(own, **given)
            lessons |= added
        return lessons | {SEGMENTATION: own}

    def learns_beside(self, network: str, learning_rate: float) -> list[dict[str, Any]]:
        """Return the weight groups that any part trains with a network."""
        return [group for part in self._parts for group in part.learns_beside(network, learning_rate)]

    def correct(self, network: str, student: Student) -> None:
        """Let every part that corrects gradients change them."""
        for part in self._parts:
            if part.corrects:
                part.correct(network, student)

    def hand_over(self) -> Memory:
        """Return the records of all parts."""
        handed = {name: record for part in self._parts for name, record in part.hand_over().items()}
        self.own = self._parts[0].own
        return handed

    def weight(self, term: str) -> float:
        """Return a term's weight, as given by the part that reports it."""
        return self._part_of[term].weight(term)

    def retained(self, student: Student, hospital: Hospital, stage: int) -> Mapping[str, int]:
        """Return the retention values of all parts."""
        return {name: value for part in self._parts for name, value in part.retained(student, hospital, stage).items()}

    def penalties(self, network: str, student: Student) -> Mapping[str, torch.Tensor]:
        """Return all parts' penalties."""
        return {name: value for part in self._parts for name, value in part.penalties(network, student).items()}
