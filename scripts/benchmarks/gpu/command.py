"""The command that measures a device, part by part, within minutes."""

import gc
import json
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.device import use_device, why_no_gpu
from fedserdiff.errors import ConfigError
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.settings.groups import Machine

from benchmarks.gpu.bench import GIB, SIZES, Bench, Part, Row
from benchmarks.gpu.floor import FLOOR
from benchmarks.gpu.training import COMPILED, TRAINING
from benchmarks.gpu.volumes import VOLUMES
from benchmarks.machine import machine

PARTS = (*TRAINING, *VOLUMES, FLOOR, COMPILED)
"""All parts, the most important first; parts that no longer fit the time are skipped."""

_SECONDS = 225  # four minutes, less what imports take


class SizeName(StrEnum):
    """Names of sizes for the command-line option."""

    FULL = "full"
    TOY = "toy"


def gpu(
    out: Annotated[Path, typer.Option(help="JSON file to write; it is complete after each figure.")],
    size: Annotated[
        SizeName | None,
        typer.Option(help="full (needs a GPU) or toy; by default full on a GPU and toy on a CPU."),
    ] = None,
    seconds: Annotated[int, typer.Option(help="Time limit; parts that would exceed it are skipped.", min=1)] = _SECONDS,
    seed: Annotated[int, typer.Option(help="Seed of scans, weights and noise.")] = 0,
) -> None:
    """Time steps, volumes, peers and hardware limits on this machine's GPU, on random scans, within four minutes."""
    begun = time.perf_counter()
    console = open_console()
    with clear_errors(f"finished measurements are in {out}"):
        device = use_device(Machine(gpus_per_site=1.0))
        if size is None:
            size = SizeName.FULL if device.type == "cuda" else SizeName.TOY
        if size is SizeName.FULL and device.type != "cuda":
            raise ConfigError(f"--size full: takes hours on a CPU, and {why_no_gpu()}: use --size toy instead")
        bench = Bench(SIZES[size], device, seed)
        report = _about(bench)
        console.print(f"{report['device']}, {size} size, {report['software']}", highlight=False, soft_wrap=True)
        for part in PARTS:
            left = begun + seconds - time.perf_counter()
            started = time.perf_counter()
            with console.status(part.name):
                for row in _measured(part, bench, left):
                    report["rows"].append({"part": part.name, **row.to_dict()})
                    console.print(f"  {escape(_line(report['rows'][-1]))}", highlight=False, soft_wrap=True)
                    _write(out, report)
            report["part_s"][part.name] = time.perf_counter() - started
        report["seconds"] = time.perf_counter() - begun
        _write(out, report)
    _print(console, report)


def _measured(part: Part, bench: Bench, left_s: float) -> Iterator[Row]:
    """Yield a part's rows; if it fails or there is no time for it, yield a row with the reason."""
    needed_s = part.expected_s if bench.size is SIZES[SizeName.FULL] else 0.0
    if left_s < needed_s:
        yield Row(part.name, how=f"skipped: it takes some {needed_s:.0f} s, but {max(left_s, 0):.0f} s were left")
        return
    try:
        yield from part.measure(bench)
    except Exception as error:  # noqa: BLE001 - after any failure, the other parts still run
        why = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
        reason = f"{why}: {str(error).strip().partition(chr(10))[0]}"
    else:
        reason = ""
    gc.collect()  # free the memory held by the part or the error's frames
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
    if reason:
        yield Row(part.name, how=reason)


def _about(bench: Bench) -> dict[str, Any]:
    """Return a description of the device, software and settings of the figures."""
    on_gpu = bench.device.type == "cuda"
    laptop = bench.config("laptop", "ser-diff-plus")
    on = machine(int(laptop.machine.cpus_per_site))
    gpu = torch.cuda.get_device_properties(bench.device) if on_gpu else None
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if on_gpu else ""
    return {
        "size": bench.size.name,
        "device": f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" if gpu else f"CPU, {on['cpu']}, {on['cores']} cores",
        "software": f"torch {torch.__version__}{cuda}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "machine": on,
        "seed": bench.seed,
        "config": {of: bench.config(of, "ser-diff-plus").to_dict() for of in ("laptop", "paper", "slices")},
        "rows": [],
        "part_s": {},
    }


def _write(out: Path, report: dict[str, Any]) -> None:
    write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))


def _line(row: dict[str, Any]) -> str:
    figure = "no figure" if row["median"] is None else f"{row['median']:.4g} {row['unit']}"
    return f"{row['what']}: {figure} ({row['how']})"


def _print(console: Console, report: dict[str, Any]) -> None:
    table = Table(
        "figure", "median", "", "from", "to", "peak, GiB", "counted, GiB", "how",
        title=f"{report['device']}, {report['size']} size, {report['software']}, seed {report['seed']}; random scans",
    )  # fmt: skip
    for row in report["rows"]:
        values = row["values"]
        figures = [f"{value:.4g}" for value in (row["median"], min(values), max(values))] if values else ["–", "", ""]
        held = ["" if row[name] is None else f"{row[name]:.3g}" for name in ("peak_gib", "predicted_gib")]
        table.add_row(escape(row["what"]), figures[0], row["unit"], *figures[1:], *held, escape(row["how"]))
    print_table(console, table)
    console.print(
        f"{report['seconds']:.0f} s in total. Weights are untrained; they affect only which slices are refined, and "
        "here all are. Counted: memory of a step computed from shapes, without workspaces and torch's reserve.",
        highlight=False,
        soft_wrap=True,
    )
