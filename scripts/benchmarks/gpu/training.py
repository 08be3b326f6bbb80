"""Training steps on a device, for each network size, stage and method, in parts, and compiled."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from fedserdiff.diffusion.objective import draws_for
from fedserdiff.diffusion.precision import has_bf16
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments.random_hospital import LITTLE_BEFORE_STEPS, random_hospital, random_orders
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.experiments.step_time import step_seconds
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import use_cpus
from sites.step import Learners, coarse_losses, refiner_losses
from sites.training import make_objective
from sites.training_set import TrainingSet

from benchmarks.gpu.bench import GIB, Bench, Part, Row, in_ms
from benchmarks.gpu.floor import kernel_seconds

_WARM_UP = 4  # steps; every second one perturbs P


class _NotKept(TrainingSet):
    """A training set whose items stay on the host, like those of a large hospital, instead of on the GPU."""

    _kept_items = None


def _steps(bench: Bench, of: str, method: str, stages: tuple[int, ...], changes: Mapping[str, Any]) -> Iterator[Row]:
    """Time the steps of a stage, with or without earlier hospitals, as in a hospital's round."""
    config = bench.config(of, method).replace({**LITTLE_BEFORE_STEPS, **changes})
    blocks, size = bench.size.steps if of == "laptop" else bench.size.large_steps
    use_cpus(config.machine.cpus_per_site)
    hospital, student = random_hospital(config), new_student(config).to(bench.device)
    for stage in stages:
        order = random_orders(config, student)[stage - 1]
        bench.watch()
        timed = step_seconds(student, order, hospital, config, blocks, size, _WARM_UP, bench.size.limit_s)
        yield Row(
            f"{of}: a step of stage {stage}, {method}",
            "ms",
            in_ms(timed),
            f"batch {config.training.batch_size} of {_grid(config)}; {len(timed)} blocks of {size} steps",
            bench.peak_gib(),
            step_memory(config, stage) / GIB if of == "paper" else None,
        )


def _parts(bench: Bench, of: str) -> Iterator[Row]:
    """Time the parts of a step of stage 1 one after another, and its kernels."""
    config = bench.config(of, "ser-diff-plus")
    use_cpus(1)  # on a CPU, the profiler sees only its own thread
    hospital, student = random_hospital(config), new_student(config).to(bench.device).train()
    objective, training_set = make_objective(config), _NotKept(hospital.training, config, bench.device)
    items, noise = (
        generator(bench.seed, name, device=where) for name, where in (("items", "cpu"), ("noise", bench.device))
    )

    def load() -> object:
        return training_set.batch(training_set.draw(config.training.batch_size, items))

    how = f"batch {config.training.batch_size} of {_grid(config)}"
    yield Row(
        f"{of}: loading a batch",
        "ms",
        in_ms(bench.timed(load)),
        f"{how}, from the host's memory; in a run, a thread loads ahead",
    )
    batch = training_set.batch(training_set.draw(config.training.batch_size, items))
    lessons = objective.lessons(batch, noise)
    _, seen = coarse_losses(student, objective, lessons)

    def backwards(losses: Mapping[str, torch.Tensor]) -> None:
        torch.stack(list(losses.values())).sum().backward()
        student.zero_grad()

    def coarse() -> None:
        backwards(coarse_losses(student, objective, lessons)[0])

    def refiner() -> None:
        for perturb in (False, True):
            draws = {name: draws_for(student, lesson, perturb) for name, lesson in lessons.items()}
            backwards(refiner_losses(student, objective, lessons, seen, draws))

    yield Row(f"{of}: coarse network, forwards and backwards", "ms", in_ms(bench.timed(coarse)), how)
    yield Row(f"{of}: refiner, forwards and backwards", "ms", in_ms(bench.timed(refiner, 2)), how)
    learners = Learners(student, objective, bench.device)

    def steps() -> None:
        for step in range(2):
            learners.take(objective.lessons(batch, noise), step, 1.0)()

    steps()
    busy = tuple(seconds / 2 for seconds in kernel_seconds(bench.device, steps, 2))
    kind = "kernels" if bench.device.type == "cuda" else "operations"
    yield Row(f"{of}: {kind} of a step of stage 1 alone", "ms", in_ms(busy), "sums of torch.profiler; 2 steps each")


def _compiled(bench: Bench) -> Iterator[Row]:
    """Time the steps of stage 1 with compiled losses, which no setting compiles.

    The precision is explicit, because ``auto`` queries the hardware for bf16, which breaks the graph.
    """
    precision = "bf16" if has_bf16(bench.device.type) else "fp32"
    backend = bench.size.compiler
    torch.use_deterministic_algorithms(True, warn_only=True)  # also for the compiler, as in a compiled run
    losses: dict[str, Any] = {of.__name__: torch.compile(of, backend=backend) for of in (coarse_losses, refiner_losses)}
    begun = time.perf_counter()
    with patch.multiple("sites.step", **losses):
        (row,) = _steps(bench, "laptop", "ser-diff-plus", (1,), {"network.precision": precision})
    taken = time.perf_counter() - begun
    how = f"{row.how}; {backend}, {taken:.0f} s including compilation"
    yield replace(row, what=f"{row.what}, torch.compile", how=how)


def _grid(config: Settings) -> str:
    return "×".join(str(edge) for edge in config.data.grid[: config.data.spatial_dims])


TRAINING = (
    Part("laptop's steps, ser-diff-plus", 20, lambda bench: _steps(bench, "laptop", "ser-diff-plus", (1, 2), {})),
    Part("laptop's steps, ser-diff", 10, lambda bench: _steps(bench, "laptop", "ser-diff", (2,), {})),
    Part("paper's steps, ser-diff-plus", 35, lambda bench: _steps(bench, "paper", "ser-diff-plus", (1, 2), {})),
    Part("paper's steps, ser-diff", 25, lambda bench: _steps(bench, "paper", "ser-diff", (2,), {})),
    Part("parts of paper's step", 20, lambda bench: _parts(bench, "paper")),
    Part("parts of laptop's step", 8, lambda bench: _parts(bench, "laptop")),
)
COMPILED = Part("laptop's steps, compiled", 85, _compiled)
