"""A step is a function of tensors only: it waits for no value and draws nothing on the host. The tests detect both on
a CPU, where neither costs time."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from painted import moments
from students import lively_student
from torch.overrides import TorchFunctionMode

import sites.objectives.distill
import sites.objectives.image_replay
import sites.objectives.lesion_replay
import sites.objectives.ser_diff
import sites.training
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.objective import draws_for
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import ERROR_MAPS, FISHER, LESION_MOMENTS, SYNTHETIC_IMAGES, Memory
from sites.hospital import Hospital
from sites.objectives.base import Objective
from sites.step import Losses, coarse_losses, refiner_losses
from sites.training import Order, make_objective, run_round
from sites.training_set import TrainingSet

STEPS = (
    "der", "distill", "ewc", "fedprox", "fine-tune", "image-replay", "lesion-replay", "lwf", "scaffold", "ser-diff",
    "ser-diff-plus", "ser-diff+ewc",
)  # fmt: skip
"""Methods whose steps differ: of all others they are fine-tune's."""
DRAWING = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.rand_like,
           torch.randn_like, torch.randint_like, torch.Tensor.normal_, torch.Tensor.uniform_}  # fmt: skip


def in_stage_2(method: str, hospital: Hospital, dims: int = 2) -> tuple[Settings, Objective, TrainingSet]:
    """A method's objective as the second hospital begins, with all that a past can bring it."""
    changes: dict[str, Any] = {"network.precision": "fp32", "data.spatial_dims": dims}
    if method == "ser-diff-plus":
        changes["method.shared_error_maps"] = "null"
    config = make_settings("smoke", changes, method=method)
    grid, draws = config.data.grid[:dims], torch.Generator().manual_seed(0)
    memory: Memory = {
        ERROR_MAPS: {"maps": torch.randint(-15, 16, (4, 3, *grid), generator=draws).to(torch.int8)},
        SYNTHETIC_IMAGES: {
            "images": torch.randn(4, 4, *grid, generator=draws).half(),
            "masks": torch.randint(0, 2, (4, 3, *grid), generator=draws).to(torch.uint8),
        },
        LESION_MOMENTS: moments(),
        FISHER: {name: weight.detach().square() for name, weight in lively_student(config).named_parameters()},
    }
    teacher = lively_student(config.replace(seed=3)).requires_grad_(False)
    adapter = SiteAdapter(4) if method == "ser-diff-plus" else None
    objective = make_objective(config, [teacher] * (1 + method.count("+ewc")), memory, adapter)
    training_set = TrainingSet(hospital.training, config, torch.device("cpu"))
    objective.received(lively_student(config))
    objective.begin(training_set, "site-2", 2, 1)
    return config, objective, training_set


# between them they have every term of every method's step
@pytest.mark.parametrize(
    ("method", "dims"), [("distill", 2), ("image-replay", 2), ("ser-diff+ewc", 2), ("ser-diff-plus", 3)]
)
def test_a_step_is_traced_whole_and_learns_the_same(hospital: Hospital, method: str, dims: int) -> None:
    config, objective, training_set = in_stage_2(method, hospital, dims)
    batch = training_set.batch(torch.arange(3) if dims == 2 else torch.arange(2))
    student = lively_student(config)
    lessons = objective.lessons(batch, torch.Generator().manual_seed(5))
    draws = {name: draws_for(student, lesson, True) for name, lesson in lessons.items()}

    def gradients(losses: Losses) -> list[torch.Tensor]:
        torch.stack(list(losses.values())).sum().backward()
        found = [weight.grad for weight in student.parameters() if weight.grad is not None]
        student.zero_grad()
        return found

    def learnt(compiled: Callable[..., Any]) -> list[list[torch.Tensor]]:
        of_coarse, seen = compiled(coarse_losses)(student, objective, lessons)
        of_refiner = compiled(refiner_losses)(student, objective, lessons, seen, draws)
        return [[*of_coarse.values(), *of_refiner.values()], gradients(of_coarse), gradients(of_refiner)]

    torch.compiler.reset()
    traced = learnt(lambda function: torch.compile(function, fullgraph=True, backend="eager"))  # a break is an error
    plain = learnt(lambda function: function)
    assert len(plain[1]) > 10
    assert len(plain[2]) > 10
    torch.testing.assert_close(traced, plain)


class Drawn(TorchFunctionMode):
    """Remembers what was drawn: of how many values, and from which generator."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[tuple[int, torch.Generator | None]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in DRAWING:
            self.draws.append((result.numel(), (kwargs or {}).get("generator")))
        return result


@pytest.mark.parametrize("method", STEPS)
def test_what_the_device_computes_with_is_drawn_there(
    hospital: Hospital, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generators of items stay on the host, which looks items up, and draw at most one number per item.
    Generators of lesions' looks stay there too, and draw a dozen numbers per painted sample."""
    config, _, training_set = in_stage_2(method, hospital)
    made: dict[int, tuple[torch.Generator, bool]] = {}

    def spy(seed: int, *purpose: str | int, device: torch.device | None = None) -> torch.Generator:
        new = generator(seed, *purpose)
        made[id(new)] = new, device is not None and device == training_set.device
        return new

    objectives = sites.objectives
    for module in (
        sites.training,
        objectives.distill,
        objectives.image_replay,
        objectives.lesion_replay,
        objectives.ser_diff,
    ):
        monkeypatch.setattr(module, "generator", spy)
    memory = in_stage_2(method, hospital)[1].memory
    teacher = lively_student(config.replace(seed=3)).requires_grad_(False)
    order = Order(2, 1, teachers=(teacher,) * (1 + method.count("+ewc")), memory=memory, adapter=SiteAdapter(4))
    student = copy.deepcopy(teacher).requires_grad_(True)
    with Drawn() as drawn:
        run_round(student, order, hospital, lambda site: hospital, config)

    voxels = config.data.grid[0] * config.data.grid[1]
    assert sum(size >= voxels for size, _ in drawn.draws) >= config.training.steps_per_stage // config.rounds
    for size, source in drawn.draws:
        assert source is not None
        of_device = made[id(source)][1]
        looks = len(config.data.regions) * len(config.data.modalities) * config.training.batch_size
        assert of_device or size <= max(len(training_set), looks if method == "lesion-replay" else 0)
