"""What a method does inside a hospital."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import MappingProxyType

import torch

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Student
from fedserdiff.wire import Memory
from sites.hospital import Batch, Hospital, TrainingSet

NOTHING_KEPT: Memory = MappingProxyType({})


class Objective(ABC):
    """The hospital's half of a method: which cases it trains on, its loss, what it hands over of a stage.

    Parameters
    ----------
    config : ExperimentConfig
        The experiment.
    teacher : Student, optional
        The frozen teacher, where the coordinator has sent one.
    memory : Memory
        What the coordinator keeps of earlier hospitals and replays here, by name of record.
    """

    def __init__(self, config: ExperimentConfig, teacher: Student | None = None, memory: Memory = NOTHING_KEPT) -> None:
        self.config = config
        self.teacher = teacher
        self.memory = memory

    def training_cases(
        self, hospital: Hospital, stage: int, open_site: Callable[[Site], Hospital]
    ) -> Sequence[CachedCase]:
        """Return the cases to train on: the hospital's own. `open_site` opens another, in a simulation only."""
        return hospital.training

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:  # noqa: B027
        """Make ready for a round, before its first step; by default there is nothing to do."""

    @abstractmethod
    def terms(self, student: Student, batch: Batch, perturb: bool, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the loss's weighted terms by name; their sum is minimised."""

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return what the coordinator is to keep of a stage that ended with `student`: nothing by default.

        All of it leaves the hospital.
        """
        return NOTHING_KEPT
