"""Compare methods on one stream of hospitals: what not pooling the data costs, and how much of it replay wins back."""

import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.markup import escape

from commands.common import clear_errors, listed, seeds_of
from commands.comparison import STUDIES, Setting, claim, compare_methods, run_studies, write_page
from commands.run_pool import RunPool
from commands.simulation import CASES
from fedserdiff.comparison.studies import Study
from fedserdiff.config import PROFILES, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, get_method, label
from fedserdiff.report.tables import print_comparison, print_study

_MOST_PARALLEL = 8  # each run is a Ray of its own, with about 1.5 GB of memory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    methods: Annotated[
        str, typer.Option(help=f"Methods, with commas between; of {', '.join(map(label, METHODS))}.")
    ] = "ser-diff-plus,ser-diff,fine-tune,rehearsal,pooled",
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas between; 0,1,2 by default, and 0 for a study.")
    ] = None,
    sites: Annotated[int | None, typer.Option(help="Number of phantom hospitals (3 if no --federation).")] = None,
    federation: Annotated[
        Path | None, typer.Option(help="TOML file that names hospitals with data of their own.")
    ] = None,
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "laptop",
    study: Annotated[
        str | None,
        typer.Option(help=f"Instead of methods, vary one thing; of {', '.join(STUDIES)}, with commas between, or all."),
    ] = None,
    show_cases: Annotated[
        bool, typer.Option("--show-cases", help="Show example cases of your own data in the page; phantoms always are.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Keep patients that an earlier site brought: the scores leak.")
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
    """Run methods, or a study, on one stream of hospitals; reuse what is done already; write one page that compares."""
    console = Console()
    with clear_errors("finished runs are kept: the same command goes on from them"):
        if federation is not None and sites is not None:
            raise ConfigError("--sites and --federation: give one of them")
        if parallel is not None and parallel < 1:
            raise ConfigError(f"--parallel: {parallel} is less than 1")
        names = listed(methods, "--methods")
        for name in names:
            get_method(name)
        studies = [] if study is None else _studies(study)
        gpus = float(torch.cuda.is_available()) if gpus_per_site is None else gpus_per_site
        setting = Setting(
            make_config(profile, cpus_per_site=cpus_per_site, gpus_per_site=gpus, allow_overlap=allow_overlap),
            seeds_of(seeds or ("0" if studies else "0,1,2")),
            federation,
            3 if sites is None else sites,
            console,
        )
        folder = out or Path("runs") / f"compare-{setting.folder}-{profile}"
        claim(folder, setting)
        pool = RunPool(folder, CASES, parallel or _parallel(cpus_per_site, gpus), console, setting.data)
        for result in run_studies(pool, setting, studies, folder):
            print_study(console, result)
        if not studies:
            print_comparison(console, compare_methods(pool, setting, names, folder, show_cases))
        write_page(folder)
        console.print(f"Page: {escape(str(folder / 'report.html'))}", soft_wrap=True)


def _studies(text: str) -> list[Study]:
    names = list(STUDIES) if text == "all" else listed(text, "--study")
    for name in names:
        if name not in STUDIES:
            raise ConfigError(f"--study: unknown study {name!r}: choose of {', '.join(STUDIES)}, or all")
    return [STUDIES[name] for name in names]


def _parallel(cpus_per_site: float, gpus: float) -> int:
    """Return how many runs this machine does at a time: a small model fills one core, and gains little from two."""
    return 1 if gpus else max(1, min(int((os.cpu_count() or 1) // cpus_per_site), _MOST_PARALLEL))
