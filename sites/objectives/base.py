"""Base class of objectives: the part of a method that runs inside a hospital."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.wire import Memory
from sites.hospital import Hospital
from sites.training_set import Batch, TrainingSet

NOTHING_KEPT: Memory = MappingProxyType({})

SEGMENTATION, DISTILLATION = "segmentation", "distillation"
"""Names of the terms L_seg and λ · L_KD."""


class Objective:
    """The hospital's half of a method: the cases it trains on, the lessons it learns from, the records it hands over.

    Parameters
    ----------
    config : Settings
        Settings of the experiment.
    teacher : Student, optional
        The frozen teacher, if the coordinator has sent one.
    memory : Memory
        What the coordinator keeps from earlier hospitals and replays here, by record name.
    adapter : SiteAdapter, optional
        The hospital's own adapter, if it has learned one. Images pass through it before the student; it never leaves.

    Attributes
    ----------
    remarks : list of str
        Remarks for the hospital's own log.
    own : dict of torch.Tensor
        What the hospital kept for itself after its last round and, once a round has ended, what it keeps from that
        round. None of it leaves.
    """

    corrects = False
    """Whether `correct` changes gradients before each step."""

    def __init__(
        self,
        config: Settings,
        teacher: Student | None = None,
        memory: Memory = NOTHING_KEPT,
        adapter: SiteAdapter | None = None,
    ) -> None:
        self.config = config
        self.teacher = teacher
        self.memory = memory
        self.adapter = adapter
        self.remarks: list[str] = []
        self.own: dict[str, torch.Tensor] = {}

    def training_cases(
        self, hospital: Hospital, stage: int, open_site: Callable[[Site], Hospital]
    ) -> Sequence[CachedCase]:
        """Return the cases to train on, by default the hospital's own. In simulations `open_site` opens another
        site."""
        return hospital.training

    def validation_cases(self, hospital: Hospital, open_site: Callable[[Site], Hospital]) -> Sequence[CachedCase]:
        """Return the cases for validation during training, by default the hospital's own; pooling adds other sites'."""
        return hospital.validation

    @staticmethod
    def personal(student: Student) -> tuple[str, ...]:
        """Return the names of the personal weights, which stay at the hospital; none by default."""
        return ()

    @staticmethod
    def kept_of(student: Student) -> Mapping[str, torch.Tensor]:
        """Return tensors with the names and shapes of those kept as `own`; none by default."""
        return {}

    def received(self, student: Student) -> None:
        """Process the student at the start of a round; does nothing by default."""

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Prepare a round before its first step; does nothing by default."""

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Return the hospital's images as its networks see them: through the adapter, if there is one."""
        if self.adapter is None:
            return image
        translated: torch.Tensor = self.adapter(image)
        return translated

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return a step's lessons, by the name of their L_seg among the loss terms.

        By default there is one lesson, the batch. Other random draws use separate generators of the objective.
        """
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise)}

    def learns_beside(self, network: str, learning_rate: float) -> list[dict[str, Any]]:
        """Return optimiser groups of further weights to train with one network, with rates ``lr``; none by default."""
        return []

    def weight(self, term: str) -> float:
        """Return the weight of a loss term: 1 for L_seg of the batch, λ for all others."""
        return 1.0 if term == SEGMENTATION else float(getattr(self.config.method, "lambda_kd", 1.0))

    def penalties(self, network: str, student: Student) -> Mapping[str, torch.Tensor]:
        """Return weighted penalty terms on the weights of one network, ``coarse`` or ``refiner``; none by default."""
        return {}

    def correct(self, network: str, student: Student) -> None:
        """Change the gradients of one network in place, if `corrects` is set; both networks may call this at once."""

    def hand_over(self) -> Memory:
        """Return the records that go to the coordinator with a round's weight change, by name; none by default.

        All of it leaves the hospital.
        """
        return NOTHING_KEPT

    def retained(self, student: Student, hospital: Hospital, stage: int) -> Mapping[str, int]:
        """Return how well the trained `student` retains earlier hospitals, for the last round of a stage; nothing by
        default.

        All of it leaves the hospital.
        """
        return {}

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return the records that the coordinator keeps from a stage that ended with `student`; none by default.

        All of it leaves the hospital.
        """
        return NOTHING_KEPT
