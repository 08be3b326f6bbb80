"""Memory of a training step, counted on tensors with shapes but no values, so that no GPU is needed."""

from collections.abc import Sequence
from dataclasses import replace
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
from fedserdiff.wire import LESION_MOMENTS, Memory
from sites.adapters import learns_adapter
from sites.step import Learners
from sites.training import make_objective
from sites.training_set import Batch, TrainingSet

_ITEMS = 64
_CPU = torch.device("cpu")


def step_memory(config: Settings, stage: int = 2) -> int:
    """Return the peak bytes held while a hospital trains: weights, gradients, Adam's moments, activations.

    Workspaces of kernels and the allocator's reserve are not included: on one H100 a step of 14.0 GiB took 17.

    Parameters
    ----------
    config : Settings
        Settings with their sites. If `network.precision` is ``auto``, convolutions are counted in bf16, which most GPUs
        support.
    stage : {1, 2}
        1 for the first stage, 2 for a stage with a teacher and with what the method keeps from earlier stages.
    """
    precision = "bf16" if config.network.precision == "auto" else config.network.precision
    config = config.replace({**LITTLE_BEFORE_STEPS, "network.precision": precision, "machine.compile": False})
    memory = random_memory(config, new_student(config))
    # In that thread all of its modes apply, and nothing starts in another thread.
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
        known = {name: values for name, values in memory.items() if name != LESION_MOMENTS and stage > 1}
        # How lesions are painted depends on values. Painted samples take the place of others, and a teacher sees them.
        teacher = teachers[0] if LESION_MOMENTS in memory else None
        objective = make_objective(config, teachers, known, adapter)
        blank = _Blank(config)
        objective.received(student)
        objective.begin(blank, site, stage, 1)
        learners = Learners(student.train(), objective, _CPU)
        noise = torch.Generator()
        for step in range(2):  # Adam's moments exist from the second step on
            batch = blank.batch(torch.zeros(config.training.batch_size, dtype=torch.long))
            lessons = objective.lessons(batch, noise)
            if teacher is not None:
                lessons = {name: replace(lesson, teacher=teacher) for name, lesson in lessons.items()}
            learners.take(lessons, step, 1.0)()
    return int(alive.most)


class _Blank(TrainingSet):
    """A training set with items of the right shape and no scans."""

    def __init__(self, config: Settings) -> None:
        super().__init__([], config, _CPU)
        self._shapes = [(len(names), *config.sample_shape) for names in (config.data.modalities, config.data.regions)]

    def __len__(self) -> int:
        return _ITEMS

    def draw(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Return indices of 0: all items are the same."""
        return torch.zeros(size, dtype=torch.long)

    def batch(self, index: torch.Tensor, mirrored: bool = False, margin: Sequence[int] | None = None) -> Batch:
        """Return items of zeros."""
        image, truth = (torch.zeros(len(index), *shape) for shape in self._shapes)
        return Batch(image, truth, index, mirrored)


class _Alive(TorchDispatchMode):
    """A dispatch mode that counts the bytes of all storages created and still held.

    Attributes
    ----------
    most : int
        Peak number of bytes.
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
        """Subtract bytes that are no longer held."""
        self._now -= size


class _Held:
    """A marker that is deleted together with its storage."""

    def __init__(self, alive: _Alive, size: int) -> None:
        self._alive, self._size = alive, size

    def __del__(self) -> None:
        self._alive.release(self._size)
