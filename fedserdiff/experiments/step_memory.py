"""How much memory a training step takes, counted on tensors that have shapes and no values: no GPU is needed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # its documented name: docs/source/torch.compiler_fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.experiments.random_hospital import LITTLE_BEFORE_STEPS, random_memory
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import one_a_cpu
from fedserdiff.wire import Memory
from sites.adapters import learns_adapter
from sites.step import Learners
from sites.training import make_objective
from sites.training_set import Batch, TrainingSet

_ITEMS = 64
_CPU = torch.device("cpu")


def step_memory(config: Settings, stage: int = 2) -> int:
    """Return the most bytes that are alive while a hospital trains: weights, gradients, Adam's moments, activations.

    Kernels' workspaces and what an allocator holds in reserve come on top: on one H100 a step of 14.0 GiB took 17.

    Parameters
    ----------
    config : Settings
        With its sites; convolutions are counted in bf16 where `network.precision` is ``auto``, as most GPUs have it.
    stage : {1, 2}
        The first, or one with a teacher and what the method keeps of earlier stages.
    """
    precision = "bf16" if config.network.precision == "auto" else config.network.precision
    config = config.replace({**LITTLE_BEFORE_STEPS, "network.precision": precision, "machine.compile": False})
    memory = random_memory(config, new_student(config))
    # There every mode of this thread holds, and nothing is begun in another.
    return one_a_cpu(lambda _: _most_alive(config, memory, stage), [None], 1)[0]


def _most_alive(config: Settings, memory: Memory, stage: int) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive:
        student = Student(config)
        parts = get_method(config.method.name).parts
        teachers: list[Student | None] = [None] * len(parts)
        stages = config.timetable.training
        site = stages[min(stage, len(stages)) - 1][0]
        adapter = None
        if stage > 1:
            teachers = [Student(config).eval().requires_grad_(False)] * len(parts)
            adapter = SiteAdapter(len(config.data.modalities)) if learns_adapter(config, site) else None
        objective = make_objective(config, teachers, memory if stage > 1 else {}, adapter)
        blank = _Blank(config)
        objective.received(student)
        objective.begin(blank, site, stage, 1)
        learners = Learners(student.train(), objective, _CPU)
        noise = torch.Generator()
        for step in range(2):  # Adam's moments are there from the second on
            batch = blank.batch(torch.zeros(config.training.batch_size, dtype=torch.long))
            learners.take(objective.lessons(batch, noise), step, 1.0)()
    return int(alive.most)


class _Blank(TrainingSet):
    """Items of the right shape without a scan."""

    def __init__(self, config: Settings) -> None:
        super().__init__([], config, _CPU)
        self._shapes = [(len(names), *config.sample_shape) for names in (config.data.modalities, config.data.regions)]

    def __len__(self) -> int:
        return _ITEMS

    def draw(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Return indices: there is nothing to draw from."""
        return torch.zeros(size, dtype=torch.long)

    def batch(self, index: torch.Tensor, mirrored: bool = False, margin: Sequence[int] | None = None) -> Batch:
        """Return items that show nothing."""
        image, truth = (torch.zeros(len(index), *shape) for shape in self._shapes)
        return Batch(image, truth, index, mirrored)


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages that were made and are still held.

    Attributes
    ----------
    most : int
        The most there were at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.most = 0
        self._now = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = _Held(self, storage.nbytes())
        self._now += storage.nbytes()
        self.most = max(self.most, self._now)

    def release(self, size: int) -> None:
        """Take away what is held no longer."""
        self._now -= size


class _Held:
    """Goes with the storage that it is kept for."""

    def __init__(self, alive: _Alive, size: int) -> None:
        self._alive, self._size = alive, size

    def __del__(self) -> None:
        self._alive.release(self._size)
