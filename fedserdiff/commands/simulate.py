"""Simulate a federation: hospitals arrive one after another, and one student model learns from each."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import ConfigError
from fedserdiff.report.console import as_called, open_console
from fedserdiff.report.trackers import TRACKERS, check_tracker

if TYPE_CHECKING:
    from strategies.run_directory import RunDirectory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings(
    "stream", "allow_overlap", "rounds", "batch_size", "arrival", "participation", "lambda_kd", "teacher", "steps",
    "shared_error_maps", "dp_noise", "dp_clip", "evaluate_every", "evaluate_sites", "retries", "site_failure",
    "cpus_per_site", "gpus_per_site",
)  # fmt: skip
def main(
    chosen: Callable[[], options.Chosen],
    experiment: options.Experiment = None,
    sites: options.Sites = None,
    show_cases: options.ShowCases = False,
    skip_bad: Annotated[bool, options.SKIP_BAD] = False,
    cache: Annotated[Path | None, options.CACHE] = None,
    tracker: Annotated[
        str | None,
        typer.Option(
            help=f"Also write losses and scores for {' or '.join(TRACKERS)} into the run's directory.",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New directory for the results.",
            show_default="runs/TIME-METHOD-seedSEED",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Continue the interrupted run of this directory with its own settings; a federation file tells "
            "where its scans are now.",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    plan: Annotated[bool, options.PLAN] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Address of an existing Ray cluster to use.", metavar="HOST:PORT", rich_help_panel=options.RUNNING
        ),
    ] = None,
) -> None:
    """Simulate a federation: hospitals arrive one after another, and one student model learns from each."""
    console = open_console()
    run: RunDirectory | None = None

    def go_on() -> str:
        if run is None or not run.can_go_on:
            return ""
        return f"All finished rounds are kept. To continue:\n  {as_called('simulate')} --resume {run.path}"

    with clear_errors("finished stages and rounds are kept", go_on):
        settings = chosen()
        check_tracker(tracker, out or resume)
        # with torch, Flower and Ray, for which help and completion should not wait
        from fedserdiff.experiments.opened_federation import Cache
        from fedserdiff.experiments.plan import plan_of, show_plan
        from fedserdiff.experiments.simulated_run import begin, carry_out, interrupted, take_up

        kept = Cache.at(cache)
        if plan:
            if resume is not None:
                raise ConfigError("--plan: cannot plan a run that has begun; leave --resume out")
            show_plan(console, [plan_of(console, settings.layers(experiment), experiment, sites)])
            return
        if resume is None:
            layers = settings.layers(experiment)
            options.tell_idle(console, layers)
            opened, run = begin(console, layers, experiment, sites, kept, out, ray_address, skip_bad, show_cases)
        else:
            if out is not None:
                raise ConfigError("--out: --resume continues in the run's own directory; leave --out out")
            if skip_bad:
                raise ConfigError("--skip-bad: --resume continues with the run's own cases; leave --skip-bad out")
            run = interrupted(resume)
            taken_up = take_up(console, run, settings.given, experiment, sites, kept, show_cases, ray_address)
            if taken_up is None:
                console.print(f"{escape(str(resume))} is finished; there is nothing to continue")
                return
            opened = taken_up
        console.print(f"Run directory: {escape(str(run.path))}", soft_wrap=True)
        carry_out(console, opened, run, kept, ray_address, tracker)
        if not opened.shows_cases:
            again = f"{as_called('simulate')} --resume {escape(str(run.path))} --show-cases"
            console.print(f"No file shows a case from your data. To write pictures, run:\n  {again}", soft_wrap=True)


if __name__ == "__main__":
    app()
