"""Compare methods on one stream of hospitals: how much is lost by not pooling data, and how much replay recovers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors, listed, seeds_of
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import hospitals_of, phantoms_of
from fedserdiff.experiments.studies import STUDIES, check_study, get_study
from fedserdiff.methods import COMPARED, METHODS, get_method, listed_methods
from fedserdiff.report.console import open_console

_MOST_PARALLEL = 8  # each run starts its own Ray, with about 1.5 GB of memory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings("stream", "allow_overlap", "batch_size", "cpus_per_site", "gpus_per_site", method=False)
def main(
    chosen: Callable[[], options.Chosen],
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Methods to compare, separated by commas: {listed_methods()}.",
            show_default=",".join(COMPARED),
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            help=f"Vary one setting instead of the method, and score validation patients: {', '.join(STUDIES)}, "
            "separated by commas, or all.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Seeds, separated by commas.", show_default="0,1,2; for a study 0", rich_help_panel=options.SETTINGS
        ),
    ] = None,
    experiment: options.Experiment = None,
    sites: options.Sites = None,
    show_cases: options.ShowCases = False,
    skip_bad: Annotated[bool, options.SKIP_BAD] = False,
    cache: Annotated[Path | None, options.CACHE] = None,
    plan: Annotated[bool, options.PLAN] = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            help="Number of runs at a time.",
            show_default=f"as many as the CPUs allow, at most {_MOST_PARALLEL}; with a GPU 1",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the runs and the page; later calls reuse its runs.",
            show_default="runs/compare-DATA-PROFILE",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
) -> None:
    """Run several methods or a study on one stream of hospitals, reuse finished runs, and write a comparison page."""
    console = open_console()
    with clear_errors("finished runs are kept; the same command continues from them"):
        hospitals = hospitals_of(experiment, sites)
        if parallel is not None and parallel < 1:
            raise ConfigError(f"--parallel: {parallel} is less than 1")
        if study is not None and (methods is not None or show_cases):
            raise ConfigError(
                f"{'--show-cases' if methods is None else '--methods'}: --study varies one setting instead of the "
                "method and shows no cases; leave one of the two options out"
            )
        names = [*COMPARED] if methods is None else listed(methods, "--methods")
        for name in names:
            get_method(name)
        studies = [] if study is None else _studies(study)
        # with torch, Flower and Ray, for which help and completion should not wait
        from fedserdiff.experiments.comparison import Setting, claim, compare_methods, run_studies, write_page
        from fedserdiff.experiments.opened_federation import PHANTOM_SITES, RUNS, Cache
        from fedserdiff.experiments.plan import plans_of, show_plan
        from fedserdiff.experiments.run_pool import RunPool
        from fedserdiff.experiments.simulated_run import on_what_there_is
        from fedserdiff.report.tables import print_comparison, print_study

        layers = chosen().layers(experiment)
        config = layers.for_methods(METHODS if studies else names)
        config = on_what_there_is(console, config, layers)
        if not layers.sets("machine.cpus_per_site", by_profile=False):
            # a small model fills one core and gains little from two
            config = config.replace({"machine.cpus_per_site": 1})
        if plan:
            if studies:
                raise ConfigError("--plan: only plans a comparison of methods; leave --study out")
            machine, seeds_there = config.machine, seeds_of(seeds or "0,1,2")
            at_a_time = parallel or _parallel(machine.cpus_per_site, machine.gpus_per_site)
            show_plan(console, plans_of(console, config, experiment, sites, names), len(seeds_there), at_a_time)
            return
        setting = Setting(
            config,
            seeds_of(seeds or ("0" if studies else "0,1,2")),
            hospitals,
            (phantoms_of(experiment) or PHANTOM_SITES) if sites is None else sites,
            console,
            Cache.at(cache),
            skip_bad,
            show_cases,
            RUNS if out is None else out.parent,
        )
        machine = setting.config.machine
        folder = out or RUNS / f"compare-{setting.folder}-{layers.profile}"
        claim(folder, setting)
        pool = RunPool(
            folder,
            setting.cache.prepared,
            parallel or _parallel(machine.cpus_per_site, machine.gpus_per_site),
            console,
            setting.data,
        )
        made = (
            run_studies(pool, setting, [get_study(name) for name in studies])
            if studies
            else [compare_methods(pool, setting, names, folder)[0]]
        )
        for result in write_page(folder, setting, made):
            (print_study if studies else print_comparison)(console, result)
        console.print(f"Page: {escape(str(folder / 'report.html'))}", soft_wrap=True)


def _studies(text: str) -> list[str]:
    names = list(STUDIES) if text == "all" else listed(text, "--study")
    for name in names:
        check_study(name)
    return names


def _parallel(cpus_per_site: float, gpus: float) -> int:
    """Return how many runs to do at a time: a small model fills one core and gains little from two."""
    return 1 if gpus else max(1, min(int((os.cpu_count() or 1) // cpus_per_site), _MOST_PARALLEL))
