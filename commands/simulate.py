"""Simulate a federation: hospitals arrive one after another, and one student learns from each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from commands import options
from commands.common import as_called, clear_errors, warn
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS, label
from fedserdiff.report.console import open_console
from fedserdiff.report.trackers import TRACKERS, check_tracker

if TYPE_CHECKING:
    from strategies.run_directory import RunDirectory

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    sites: options.Sites = None,
    federation: options.FederationFile = None,
    show_cases: options.ShowCases = False,
    allow_overlap: Annotated[bool | None, options.ALLOW_OVERLAP] = None,
    skip_bad: Annotated[bool, options.SKIP_BAD] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"How the past is kept: {', '.join(map(label, METHODS))}.",
            show_default=options.DEFAULTS.method,
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    profile: Annotated[str | None, options.PROFILE] = None,
    seed: Annotated[int | None, options.SEED] = None,
    rounds: options.Rounds = None,
    batch_size: options.BatchSize = None,
    lambda_kd: options.Lambda = None,
    teacher: options.Teacher = None,
    participation: options.Participation = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps by which a student refines its mask; 1 is fastest.",
            show_default=options.default_of("sampling_steps"),
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    shared_error_maps: options.SharedErrorMaps = None,
    dp_noise: options.DpNoise = None,
    dp_clip: options.DpClip = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            help="After every so many stages, and the last, all sites score the student; after the others only the "
            "site whose stage it was and the next one.",
            show_default=options.default_of("evaluate_every"),
            rich_help_panel=options.SCORING,
        ),
    ] = None,
    evaluate_sites: Annotated[
        int | None,
        typer.Option(
            help="How many sites, drawn by the seed, score it then; 0 is all of them.",
            show_default=options.default_of("evaluate_sites"),
            rich_help_panel=options.SCORING,
        ),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(
            help=f"Write losses and scores for {' or '.join(TRACKERS)} as well, into the run's directory.",
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
            help="Go on with the interrupted run of this directory, by its own settings; --federation says where its "
            "scans are now.",
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            help="How often a site whose worker dies or runs out of memory, not a GPU's, is asked again.",
            show_default=options.default_of("retries"),
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    site_failure: Annotated[
        str | None,
        typer.Option(
            help="What a stage does where a site has failed for good: fail, or go-on with the others.",
            show_default=options.DEFAULTS.site_failure,
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    cpus_per_site: Annotated[
        float | None,
        typer.Option(
            help="CPUs that Ray reserves for a site at work; no more than there are.",
            show_default=options.default_of("cpus_per_site"),
            rich_help_panel=options.RUNNING,
        ),
    ] = None,
    gpus_per_site: Annotated[float | None, options.GPUS_PER_SITE] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="An existing Ray cluster.", metavar="HOST:PORT", rich_help_panel=options.RUNNING)
    ] = None,
) -> None:
    """Simulate a federation: hospitals arrive one after another, and one student learns from each."""
    console = open_console()
    run: RunDirectory | None = None

    def go_on() -> str:
        if run is None or not run.can_go_on:
            return ""
        return f"All up to the last finished round is kept. Go on with:\n  {as_called('simulate')} --resume {run.path}"

    with clear_errors("what was finished is kept", go_on):
        given: dict[str, Any] = {
            "method": method,
            "profile": profile,
            "seed": seed,
            "rounds": rounds,
            "batch_size": batch_size,
            "lambda_kd": lambda_kd,
            "teacher": teacher,
            "participation": participation,
            "shared_error_maps": shared_error_maps,
            "dp_noise": dp_noise,
            "dp_clip": dp_clip,
            "sampling_steps": steps,
            "allow_overlap": allow_overlap,
            "retries": retries,
            "site_failure": site_failure,
            "evaluate_every": evaluate_every,
            "evaluate_sites": evaluate_sites,
            "cpus_per_site": cpus_per_site,
            "gpus_per_site": gpus_per_site,
        }
        given = {name: value for name, value in given.items() if value is not None}
        check_tracker(tracker, out or resume)
        # with torch, Flower and Ray, for which help and completion should not wait
        from commands.simulated_run import begin, carry_out, take_up
        from strategies import run_directory

        if resume is None:
            if note := options.idle_note(given, given.get("method", options.DEFAULTS.method)):
                warn(console, note)
            opened, run = begin(console, given, federation, sites, out, ray_address, skip_bad, show_cases)
        else:
            if out is not None:
                raise ConfigError("--out: --resume goes on in the run's own directory")
            if skip_bad:
                raise ConfigError("--skip-bad: --resume goes on with the run's own cases")
            run = run_directory.RunDirectory.of_interrupted(resume)
            taken_up = take_up(console, run, given, federation, sites, show_cases, ray_address)
            if taken_up is None:
                console.print(f"{escape(str(resume))} is finished: there is nothing to go on with")
                return
            opened = taken_up
        console.print(f"Run directory: {escape(str(run.path))}", soft_wrap=True)
        carry_out(console, opened, run, ray_address, tracker)
