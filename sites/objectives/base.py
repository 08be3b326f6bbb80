"""What a method does inside a hospital."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Student
from sites.hospital import Batch, Hospital, TrainingSet


class Objective(ABC):
    """The hospital's half of a method: which cases it trains on, its loss, the maps it shares.

    Parameters
    ----------
    config : ExperimentConfig
        The experiment.
    teacher : Student, optional
        The frozen teacher, where the coordinator has sent one.
    bank : Tensor of shape (N, 3, *grid), optional
        Error maps of the coordinator's bank, in [−1, 1].
    """

    def __init__(
        self, config: ExperimentConfig, teacher: Student | None = None, bank: torch.Tensor | None = None
    ) -> None:
        self.config = config
        self.teacher = teacher
        self.bank = bank

    def training_cases(self, hospital: Hospital, open_site: Callable[[Site], Hospital]) -> Sequence[CachedCase]:
        """Return the cases to train on: the hospital's own. `open_site` opens another, in a simulation only."""
        return hospital.training

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:  # noqa: B027
        """Make ready for a round, before its first step; by default there is nothing to do."""

    @abstractmethod
    def terms(self, student: Student, batch: Batch, perturb: bool, noise: torch.Generator) -> dict[str, torch.Tensor]:
        """Return the loss's weighted terms by name; their sum is minimised."""

    def shared_maps(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> torch.Tensor | None:
        """Return the error maps that leave the hospital with the trained student, or None: the default."""
        return None
