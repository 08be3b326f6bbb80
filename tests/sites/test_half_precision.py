"""Training in fp16, whose range is small: gradients are scaled, and steps with overflowing gradients are skipped."""

from typing import Any

import pytest
import torch
from students import lively_student
from torch.utils._python_dispatch import TorchDispatchMode

from fedserdiff.diffusion import image_generator
from fedserdiff.diffusion.refiner import Student
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites import step
from sites.hospital import Hospital
from sites.inversion import invert_contrast
from sites.objectives import ewc
from sites.step import Learners
from sites.training import Order, consolidate, make_objective, run_round
from sites.training_set import TrainingSet

CPU = torch.device("cpu")


def smoke(method: str = "fine-tune", precision: str = "fp16", **changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": precision, **changes}, method=method)


def weights_of(student: Student) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in student.parameters()]


def trained(hospital: Hospital, config: Settings) -> tuple[Student, dict[str, float]]:
    student = lively_student(config)
    found = run_round(student, Order(1, 1), hospital, lambda site: hospital, config)
    return student, found.losses


def test_a_round_learns_what_it_does_in_fp32(hospital: Hospital) -> None:
    first = weights_of(lively_student(smoke()))
    (half, of_half), (whole, of_whole) = (trained(hospital, smoke(precision=p)) for p in ("fp16", "fp32"))
    assert of_half == pytest.approx(of_whole, rel=1e-2)
    assert of_half != of_whole, "it was in another precision"
    moved, as_moved = (
        torch.cat([(now - was).flatten() for now, was in zip(weights_of(student), first, strict=True)])
        for student in (half, whole)
    )
    assert torch.nn.functional.cosine_similarity(moved, as_moved, dim=0) > 0.9


def test_gradients_that_overflow_leave_the_weights_and_the_next_step_learns(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        step, "gradient_scaler", lambda *of: torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-32)
    )
    config = smoke()
    student = lively_student(config).train()
    training_set = TrainingSet(hospital.training, config, CPU)
    objective = make_objective(config)
    learners, noise = Learners(student, objective, CPU), torch.Generator().manual_seed(0)

    def take(number: int) -> dict[str, torch.Tensor]:
        return learners.take(objective.lessons(training_set.batch(torch.arange(4)), noise), number, 1.0)()

    before = weights_of(student)
    losses = take(0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.equal(a, b) for a, b in zip(weights_of(student), before, strict=True))
    take(1)
    changed = [not torch.equal(a, b) for a, b in zip(weights_of(student), before, strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert all(bool(torch.isfinite(weight).all()) for weight in student.parameters())


class Waits(TorchDispatchMode):
    """Counts how often a value is asked for, for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.asked += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes", [{}, {"training.clip_norm": 0.1, "training.ema": 0.9, "training.weight_decay": 0.01}]
)
def test_a_step_asks_for_no_value(hospital: Hospital, changes: dict[str, Any]) -> None:
    config = smoke(**changes)
    objective, student = make_objective(config), lively_student(config).train()
    training_set = TrainingSet(hospital.training, config, CPU)
    learners, noise = Learners(student, objective, CPU), torch.Generator().manual_seed(0)
    lessons = [objective.lessons(training_set.batch(torch.arange(4)), noise) for _ in range(2)]
    with Waits() as waits:
        for number, lesson in enumerate(lessons):
            learners.take(lesson, number, 1.0)()
    assert waits.asked == 0
    with waits:
        float(torch.ones(1))
    assert waits.asked == 1, "it would be seen"


def test_what_else_learns_or_asks_for_gradients_does_so_as_in_fp32(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Fisher information of `ewc`, the adapter of `ser-diff-plus` and the image model of `image-replay`."""
    monkeypatch.setattr(ewc, "_FISHER_BATCHES", 8)
    monkeypatch.setattr(image_generator, "_STEPS", 10)  # a CPU takes its time for fp16
    fisher, adapters, images = [], [], []
    for precision in ("fp16", "fp32"):
        config = smoke("ewc", precision)
        of_stage = consolidate(lively_student(config), 1, hospital, config, ["fisher"])
        fisher.append(torch.cat([values.flatten() for values in next(iter(of_stage.values())).values()]))
        config = smoke("ser-diff-plus", precision, **{"method.inversion_steps": 4})
        teacher, training_set = (
            lively_student(config).requires_grad_(False),
            TrainingSet(hospital.training, config, CPU),
        )
        adapter = invert_contrast(teacher, training_set, config, generator(0, "test"))
        adapters.append(torch.cat([weight.flatten() for weight in adapter.parameters()]))
        config = smoke("image-replay", precision)
        of_stage = consolidate(lively_student(config), 1, hospital, config, ["synthetic-images"])
        images.append(next(iter(of_stage.values()))["images"].float().flatten())
    for half, whole in (fisher, adapters, images):
        assert not torch.equal(half, whole)
        assert torch.nn.functional.cosine_similarity(half, whole, dim=0) > 0.95
