"""The cost of a training step: its time, its arithmetic, and the share of data loading."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from fedserdiff.commands.common import clear_errors
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.experiments.random_hospital import LITTLE_BEFORE_STEPS
from fedserdiff.experiments.step_time import step_seconds
from fedserdiff.federation import phantom_federation
from fedserdiff.files import write_whole
from fedserdiff.methods import get_method
from fedserdiff.report.console import open_console, print_table
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.settings.training import one_round
from fedserdiff.threads import each, use_cpus
from sites.hospital import Hospital, open_hospital
from sites.training import Order, consolidate, run_round
from sites.training_set import TrainingSet

from benchmarks.direct_training import no_other
from benchmarks.machine import machine, seconds_of

_WARM_UP, _BLOCK = 5, 10  # steps before timing; steps per timed block
_SQUARE, _PRODUCTS = 1024, 8  # size and number of matrix products that measure peak performance
_CPU = torch.device("cpu")


def step(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    profile: Annotated[str, typer.Option(help="Profile of the training.")] = "laptop",
    steps: Annotated[int, typer.Option(help=f"Steps of each stage to time, in blocks of {_BLOCK}.", min=_BLOCK)] = 60,
    seed: Annotated[int, typer.Option(help="Seed of phantoms and weights.")] = 0,
) -> None:
    """Time SER-Diff's training steps on phantoms: without replay (stage 1) and with replay (stage 2)."""
    console = open_console()
    blocks = steps // _BLOCK
    with clear_errors("nothing: figures are written at the end"):
        config = make_settings(profile, method="ser-diff", seed=seed)
        with console.status("preparing phantoms"):
            sites = phantom_federation(2, config, Cache().phantoms)
            hospitals = [open_hospital(site, config, Cache().prepared) for site in sites]
        use_cpus(1)  # FLOPs are counted only in the calling thread
        flops = [_flops(config, hospitals[0], _first()), _flops(config, hospitals[1], _second(config, hospitals[0]))]
        use_cpus(config.machine.cpus_per_site)
        with console.status("timing"):
            student = new_student(config)
            orders = (_first(), _second(config, hospitals[0]))
            rows = [
                _row(
                    f"stage {order.stage}",
                    step_seconds(student, order, hospital, config, blocks, _BLOCK, _WARM_UP),
                    loading,
                    count,
                )
                for order, hospital, count, loading in zip(
                    orders, hospitals, flops, _loading_s(config, hospitals), strict=True
                )
            ]
            peak = _peak_flops()
        report = {
            "data": "phantom, sites 1 and 2", "seed": seed, "steps": blocks * _BLOCK, "config": config.to_dict(),
            "machine": machine(int(config.machine.cpus_per_site)), "peak_flops": peak, "rows": rows,
        }  # fmt: skip
        write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    _print(console, report)


def _first() -> Order:
    return Order(1, 1)


def _second(config: Settings, hospital: Hospital) -> Order:
    """Return an order with an untrained teacher, with which a step costs the same."""
    teacher = new_student(config.replace(seed=config.seed + 1)).eval().requires_grad_(False)
    method = get_method(config.method.name)
    memory = consolidate(teacher, 1, hospital, config, method.hands_over_all)
    return Order(2, 1, teachers=(teacher,) * len(method.parts), memory=memory)


def _flops(config: Settings, hospital: Hospital, order: Order) -> int:
    """Return the FLOPs of one step, forward and backward; the teacher's error map adds one per cent."""
    once = one_round(config.training, config.method)
    only = {"training.steps_per_stage": 1, "training.epochs_per_stage": 0, **once}
    one = config.replace({**LITTLE_BEFORE_STEPS, **only})
    with FlopCounterMode(display=False) as counter:
        run_round(new_student(one), order, hospital, no_other, one)
    return int(counter.get_total_flops())


def _loading_s(config: Settings, hospitals: list[Hospital]) -> list[float]:
    """Return the seconds to draw and load a step's batch, for stage 1 and, with replayed samples, for stage 2."""
    draws = generator(config.seed, "loading")
    first, second = (TrainingSet(hospital.training, config, _CPU) for hospital in hospitals)

    def load(training_set: TrainingSet, *sizes: int) -> Callable[[], None]:
        def once() -> None:
            for size in sizes:
                training_set.batch(training_set.draw(size, draws))

        return once

    works = (
        load(first, config.training.batch_size),
        load(second, config.training.batch_size, config.replay.batch_size // 2),
    )
    return [statistics.median(seconds_of(work) for _ in range(50)) for work in works]


def _peak_flops() -> float:
    """Return the FLOPs per second of large matrix products in fp32, on as many cores as a step uses."""
    a = torch.randn(_SQUARE, _SQUARE)

    def multiply(number: int) -> None:
        torch.mm(a, a)

    each(_CPU, multiply, range(_PRODUCTS))
    best = min(seconds_of(lambda: each(_CPU, multiply, range(_PRODUCTS))) for _ in range(5))
    return 2 * _SQUARE**3 * _PRODUCTS / best


def _row(stage: str, timed: Sequence[float], loading_s: float, flops: int) -> dict[str, Any]:
    step_s = statistics.median(timed)
    return {
        "stage": stage, "step_s": step_s, "loading_s": loading_s, "loading_share": loading_s / step_s, "flops": flops,
    }  # fmt: skip


def _print(console: Console, report: dict[str, Any]) -> None:
    about, peak = report["machine"], report["peak_flops"]
    table = Table(
        "step of", "ms", "loading, ms", "share", "GFLOPs", "at peak, ms",
        title=f"{report['data']}, seed {report['seed']}, {report['config']['profile']}, "
        f"{report['steps']} steps, median of blocks of {_BLOCK}; "
        f"{about['cpu']}, {about['threads']} of {about['cores']} cores, torch {about['torch']}",
    )  # fmt: skip
    for row in report["rows"]:
        table.add_row(
            row["stage"], f"{1e3 * row['step_s']:.0f}", f"{1e3 * row['loading_s']:.1f}",
            f"{100 * row['loading_share']:.1f} %", f"{row['flops'] / 1e9:.1f}", f"{1e3 * row['flops'] / peak:.0f}",
        )  # fmt: skip
    print_table(console, table)
    console.print(
        f"Peak: {peak / 1e9:.0f} GFLOP/s, large matrix products in fp32 on the same cores. FLOPs include convolutions "
        "and matrix products, with a multiply-add as two, but not normalisations, activations and losses."
    )
