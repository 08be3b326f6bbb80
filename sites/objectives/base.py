"""What a method does inside a hospital."""

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
    """The hospital's half of a method: which cases it trains on, what it learns from, what it hands over of a stage.

    Parameters
    ----------
    config : Settings
        The experiment.
    teacher : Student, optional
        The frozen teacher, where the coordinator has sent one.
    memory : Memory
        What the coordinator keeps of earlier hospitals and replays here, by name of record.
    adapter : SiteAdapter, optional
        The hospital's own, where it has learnt one: it stays in front of the student there, and never leaves.

    Attributes
    ----------
    remarks : list of str
        What the hospital's own log is to say of what it did.
    own : dict of torch.Tensor
        What the hospital kept for itself after the last round that it trained in, and, once a round has ended, what it
        is to keep of that one. None of it leaves.
    """

    corrects = False
    """Whether gradients are changed before a step is taken."""

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
        """Return the cases to train on: the hospital's own. `open_site` opens another, in a simulation only."""
        return hospital.training

    def validation_cases(self, hospital: Hospital, open_site: Callable[[Site], Hospital]) -> Sequence[CachedCase]:
        """Return the cases to validate on while training: the hospital's own; of who trains on others, theirs, too."""
        return hospital.validation

    @staticmethod
    def personal(student: Student) -> tuple[str, ...]:
        """Return the names of the weights that stay at the hospital, which has its own of them: none by default."""
        return ()

    @staticmethod
    def kept_of(student: Student) -> Mapping[str, torch.Tensor]:
        """Return tensors of the names and shapes of those that a hospital keeps as `own`: none by default."""
        return {}

    def received(self, student: Student) -> None:
        """Take note of the student that a round begins with; by default there is nothing to note."""

    def begin(self, training_set: TrainingSet, site: str, stage: int, server_round: int) -> None:
        """Make ready for a round, before its first step; by default there is nothing to do."""

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Return images of the hospital as its networks see them: through the adapter, where there is one."""
        if self.adapter is None:
            return image
        translated: torch.Tensor = self.adapter(image)
        return translated

    def lessons(self, batch: Batch, noise: torch.Generator) -> dict[str, Lesson]:
        """Return what a step learns from, by the name that the lesson's L_seg has among the loss's terms.

        By default it is the batch. What is drawn for anything else comes from generators of the objective's own.
        """
        return {SEGMENTATION: Lesson(batch.image, batch.truth, noise)}

    def learns_beside(self, network: str, learning_rate: float) -> list[dict[str, Any]]:
        """Return groups of weights, with their rate ``lr``, that learn beside one network's at a rate: none."""
        return []

    def weight(self, term: str) -> float:
        """Return the weight of a term in the loss: λ for all but the batch's own L_seg."""
        return 1.0 if term == SEGMENTATION else float(getattr(self.config.method, "lambda_kd", 1.0))

    def penalties(self, network: str, student: Student) -> Mapping[str, torch.Tensor]:
        """Return further terms, already weighted, on the weights of one network, ``coarse`` or ``refiner``: none."""
        return {}

    def correct(self, network: str, student: Student) -> None:
        """Change the gradients of one network in place, where it `corrects`; both networks may be at it at a time."""

    def hand_over(self) -> Memory:
        """Return what goes to the coordinator beside a round's change of weights, by name of record: nothing.

        All of it leaves the hospital.
        """
        return NOTHING_KEPT

    def retained(self, student: Student, hospital: Hospital, stage: int) -> Mapping[str, int]:
        """Return what a stage's last round tells of what `student`, which it trained, keeps of earlier hospitals.

        Nothing by default. All of it leaves the hospital.
        """
        return {}

    def consolidate(self, student: Student, training_set: TrainingSet, site: str, stage: int) -> Memory:
        """Return what the coordinator is to keep of a stage that ended with `student`: nothing by default.

        All of it leaves the hospital.
        """
        return NOTHING_KEPT
