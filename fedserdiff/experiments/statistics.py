"""Statistics of a simulation's hospitals before training, gathered on Flower and Ray and written as three files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markup import escape

from fedserdiff.errors import ConfigError, FederationError
from fedserdiff.experiments.opened_federation import Cache, Federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.report.live import LiveView
from fedserdiff.report.statistics import render_statistics
from fedserdiff.text import read_json
from sites.client_app import Premises, make_client_app
from strategies.run_directory import FLOWER_LOG, RunDirectory
from strategies.statistics import STATISTICS, Answers, make_statistics_app, write_statistics


def tell_statistics(console: Console, federation: Federation, folder: Path, cache: Cache) -> Path:
    """Ask every hospital once, through its egress checks and ledger; write a page into a new folder and return its
    path.

    The values are written beside it as JSON and CSV. What hospitals keep, such as ledgers and logs, is in its folder
    ``hospitals``, as in a training run.

    Raises
    ------
    FedSerDiffError
        As in `RunDirectory.new` and `simulate`, and if a site does not appear.
    """
    run = RunDirectory.new(folder)
    summary = write_statistics(run, _gather(console, federation, run, cache), federation.config, federation.data)
    for sentence in summary["answer"]:
        console.print(escape(sentence), soft_wrap=True, highlight=False)
    return _write_page(run, summary)


def is_statistics(file: Path) -> bool:
    """Say whether a file is a ``statistics.json``, as a deployed federation's coordinator writes it."""
    return file.name == f"{STATISTICS}.json"


def page_of(file: Path) -> Path:
    """Write the page of a ``statistics.json`` beside it, and return it.

    Raises
    ------
    ConfigError
        If the file cannot be read, or holds something else.
    """
    summary = read_json(file)
    try:
        return _write_page(RunDirectory(file.parent), summary)
    except (KeyError, TypeError, ValueError, jinja2.UndefinedError) as error:
        raise ConfigError(f"{file}: is not what a coordinator wrote there ({error!r})") from None


def _write_page(run: RunDirectory, summary: Mapping[str, Any]) -> Path:
    page = f"{STATISTICS}.html"
    run.write_file(page, render_statistics(summary).encode())
    return run.path / page


def _gather(console: Console, federation: Federation, run: RunDirectory, cache: Cache) -> Answers:
    config = federation.config
    came: list[Answers] = []
    with LiveView(console, run.hospitals) as view:
        simulate(
            make_statistics_app(config, view, came.append, prepared=True),
            make_client_app(config, Premises(cache.prepared.resolve(), run.hospitals.resolve())),
            sites=len(config.sites),
            resources=Resources(config.machine.cpus_per_site),
            log_file=run.path / FLOWER_LOG,
            timeout_s=config.machine.stage_timeout_s,
        )
    if not came:
        raise FederationError(f"no hospital was asked; see {run.path / FLOWER_LOG}")
    (answers,) = came
    return answers
