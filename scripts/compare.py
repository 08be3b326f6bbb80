"""Compare methods on one stream of hospitals: what not pooling the data costs, and how much of it replay wins back."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape

from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.comparison.summary import Data, compare_runs
from fedserdiff.config import PROFILES, ExperimentConfig, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, get_method
from fedserdiff.report.page import render_page
from fedserdiff.report.tables import print_comparison

from command import clear_errors
from run_pool import RunPool
from simulation import Federation, open_named

CACHE = Path("cache")
_MOST_PARALLEL = 8  # each run is a Ray of its own, with about 1.5 GB of memory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    methods: Annotated[
        str, typer.Option(help=f"Methods, with commas between; of {', '.join(METHODS)}.")
    ] = "ser-diff,fine-tune,rehearsal,pooled",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between.")] = "0,1,2",
    sites: Annotated[int | None, typer.Option(help="Number of phantom hospitals (3 if no --federation).")] = None,
    federation: Annotated[
        Path | None, typer.Option(help="TOML file that names hospitals with data of their own.")
    ] = None,
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "laptop",
    show_cases: Annotated[
        bool, typer.Option("--show-cases", help="Show example cases of your own data in the page; phantoms always are.")
    ] = False,
    cpus_per_site: Annotated[float, typer.Option(help="CPUs for a site at work: torch's threads.")] = 1,
    gpus_per_site: Annotated[
        float | None, typer.Option(help="GPUs for a site at work; 1 where this machine has one, else 0.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Runs at a time; by default as many as CPUs (or one, on a GPU) allow, at most 8.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of runs and page, used again by later calls; one under runs/.")
    ] = None,
) -> None:
    """Run methods and seeds on one stream, reuse what is done already, and write one page that compares them."""
    console = Console()
    with clear_errors("finished runs are kept: the same command goes on from them"):
        if federation is not None and sites is not None:
            raise ConfigError("--sites and --federation: give one of them")
        gpus = float(torch.cuda.is_available()) if gpus_per_site is None else gpus_per_site
        names = _listed(methods, "--methods")
        for name in names:
            get_method(name)
        numbers = [_seed(text) for text in _listed(seeds, "--seeds")]
        data = "phantom" if federation is None else federation.stem
        count = 3 if sites is None else sites
        folder = out or Path("runs") / f"compare-{data}{count if federation is None else ''}-{profile}"
        pool = RunPool(folder, CACHE / "cases", parallel or _parallel(cpus_per_site, gpus), console)
        opened = {
            seed: open_named(
                console,
                make_config(profile, seed=seed, cpus_per_site=cpus_per_site, gpus_per_site=gpus),
                federation,
                count,
                CACHE,
            )
            for seed in numbers
        }
        runs = _compare(pool, opened, names)
        left_out = tuple(str(overlap) for overlap in opened[numbers[0]].overlaps)
        comparison = compare_runs(
            runs, Data("phantom" if federation is None else federation.name, federation is None, left_out)
        )
        _write(folder, comparison)
        print_comparison(console, comparison)
        console.print(f"Page: {escape(str(folder / 'report.html'))}")


def _listed(text: str, option: str) -> list[str]:
    items = list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise ConfigError(f"{option}: name at least one")
    return items


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"--seeds: {text!r} is not a whole number")
    return int(text)


def _parallel(cpus_per_site: float, gpus: float) -> int:
    """Return how many runs this machine does at a time: a small model fills one core, and gains little from two."""
    return 1 if gpus else max(1, min(int((os.cpu_count() or 1) // cpus_per_site), _MOST_PARALLEL))


def _compare(pool: RunPool, opened: dict[int, Federation], methods: Sequence[str]) -> dict[str, dict[int, RunRecord]]:
    """Return finished runs by method and seed."""
    wanted: dict[tuple[str, int], ExperimentConfig] = {
        (method, seed): federation.config.replace(method=method)
        for method in methods
        for seed, federation in opened.items()
    }
    folders = dict(zip(wanted, pool.complete(list(wanted.values())), strict=True))
    return {method: {seed: load_run(folders[method, seed]) for seed in opened} for method in methods}


def _write(folder: Path, comparison: dict[str, Any]) -> None:
    (folder / "comparison.json").write_text(json.dumps(comparison, indent=2, allow_nan=False) + "\n")
    (folder / "report.html").write_text(render_page(comparison, [], None))


if __name__ == "__main__":
    app()
