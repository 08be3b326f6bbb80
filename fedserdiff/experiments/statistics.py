"""Statistics of a simulation's hospitals before training, gathered on Flower and Ray and written as three files."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedserdiff.errors import FederationError
from fedserdiff.experiments.opened_federation import Cache, Federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.report.live import LiveView
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
    return folder / f"{STATISTICS}.html"


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
