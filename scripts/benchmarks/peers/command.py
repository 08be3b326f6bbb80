"""The command that trains all methods on the same patients and prints one table."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedserdiff.commands.common import clear_errors, listed, seeds_of
from fedserdiff.commands.options import Chosen, takes_settings
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.opened_federation import Cache, open_named
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.settings.experiment import PLAIN_METHOD, Settings
from fedserdiff.settings.sources import COMMAND_LINE, DEFAULT_PROFILE, layers_of
from sites.hospital import Hospital

from benchmarks.peers.folds import fold_of
from benchmarks.peers.measurement import METRICS, Task, measured
from benchmarks.peers.methods import METHODS, PROFILE, chosen_methods
from benchmarks.peers.table import Line, lines_of, summary, table

_SHARED = ("data.", "machine.", "scoring.patients")
"""Settings that apply to all methods, including the training of a profile."""


@takes_settings(method=False)
def peers(
    chosen: Callable[[], Chosen],
    federation: Annotated[Path, typer.Option(help="Federation file with the patients' hospitals.")],
    out: Annotated[Path, typer.Option(help="Folder for rows, table and logs; existing rows are kept.")],
    minutes: Annotated[
        float, typer.Option(help="Minutes of training for each method: CPU time, or wall time on a GPU.", min=0.01)
    ] = 30.0,
    methods: Annotated[str, typer.Option(help=f"Methods, of {','.join(METHODS)}.")] = ",".join(METHODS),
    folds: Annotated[int, typer.Option(help="Number of folds of each hospital's patients.", min=2)] = 3,
    fold: Annotated[str, typer.Option(help="Folds to train, from 0, separated by commas; by default all.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds of weights and draws; folds do not change.")] = "0",
    site: Annotated[str, typer.Option(help="Use only this hospital; by default all together.")] = "",
) -> None:
    """Train established methods on the same patients and voxels, for the same minutes on the same device.

    On a CPU, minutes are CPU time, so that a shared machine is fair to all. `--set` changes our own training; its
    settings of data, machine and scoring apply to all methods. No method sees a test patient.
    """
    console = open_console()
    with clear_errors(f"finished rows are in {out}: the same command continues"):
        names, numbers, given = chosen_methods(listed(methods, "--methods")), seeds_of(seeds), chosen()
        config = given.layers(federation).without_method().settings(method=PLAIN_METHOD)
        opened = open_named(console, config, federation, None, Cache())
        hospitals = _of_site(opened.hospitals, site)
        config = config.replace(sites=tuple(hospital.site for hospital in hospitals))
        wanted = _folds(fold, folds)
        for number in wanted:
            fold_of(hospitals, config, number, folds)  # before hours of training
        rows = out / "rows"
        rows.mkdir(parents=True, exist_ok=True)
        tasks = [
            Task(name, own.replace(seed=seed), number, folds, minutes, out / f"{name}.log")
            for number in wanted
            for seed in numbers
            for name, own in ((name, _of_profile(given, config) if name == PROFILE else config) for name in names)
        ]
        for task in tasks:
            file = rows / f"{task.name}.json"
            if not _stands(file, task):
                with console.status(task.name):
                    _write_json(measured(task), file)
            (line, *_) = lines_of([json.loads(file.read_text())])
            console.print(
                f"  {task.name}: Dice {100 * line.mean('dice'):.1f} %, HD95 {line.mean('hd95'):.1f} mm, "
                f"{line.figure('minutes'):.1f} min, {line.figure('iterations'):.0f} iterations",
                highlight=False,
            )
        lines = lines_of(json.loads((rows / f"{task.name}.json").read_text()) for task in tasks)
        records = summary(lines)
        about = _about(lines, opened.data, minutes)
        _write_json({"about": about, "summary": records}, out / "peers.json")
        _write_text(_csv(lines), out / "peers.csv")
    print_table(console, table(records, about))
    console.print(
        "Differences are the first line minus the others, paired by patient, with 95 % intervals over patients and "
        f"seeds. Scores of each patient: {out / 'peers.csv'}.",
        highlight=False,
        soft_wrap=True,
    )


def _of_site(hospitals: Sequence[Hospital], site: str) -> list[Hospital]:
    """Return the hospital with a name, or all if the name is empty."""
    found = [hospital for hospital in hospitals if site in ("", hospital.site.name)]
    if not found:
        there = ", ".join(hospital.site.name for hospital in hospitals)
        raise ConfigError(f"--site: unknown site {site}: choose from {there}")
    return found


def _of_profile(given: Chosen, config: Settings) -> Settings:
    """Return a profile's settings with the data, sites and machine of `config`."""
    shared = {name: value for name, value in config.by_name.items() if name.startswith(_SHARED)}
    layers = layers_of(given.profile or DEFAULT_PROFILE).without_method().on_top(COMMAND_LINE, shared)
    return layers.settings(method=PLAIN_METHOD, sites=config.sites)


def _folds(fold: str, folds: int) -> list[int]:
    if not fold:
        return list(range(folds))
    known = [str(number) for number in range(folds)]
    named = listed(fold, "--fold")
    if unknown := [name for name in named if name not in known]:
        raise ConfigError(f"--fold: {', '.join(unknown)}: choose from {', '.join(known)}")
    return list(map(int, named))


def _stands(file: Path, task: Task) -> bool:
    """Return whether a task's row exists.

    Raises
    ------
    ConfigError
        If the row is for other patients, minutes or settings.
    """
    if not file.exists():
        return False
    asked = json.loads(file.read_text())["asked"]
    wanted = json.loads(json.dumps(task.asked))
    if different := [name for name, value in wanted.items() if asked.get(name) != value]:
        raise ConfigError(f"{file}: has other values of {', '.join(different)}: choose another folder with --out")
    return True


def _about(lines: list[Line], data: str, minutes: float) -> str:
    first = lines[0].rows[0]
    sides = ", ".join(f"{len(cases)} {side}" for side, cases in first["sides"].items() if cases)
    spacing = first["asked"]["settings"]["data.spacing_mm"]
    sites = "+".join(site["name"] for site in first["asked"]["sites"])
    return (
        f"{data}, {sites}: {first['scored']} patients of {first['asked']['folds']} folds (the first: {sides}), "
        f"{spacing:g} mm; {minutes:g} minutes each, {first['device']}, {first['machine']['cpu']}, "
        f"torch {first['machine']['torch']}"
    )


def _csv(lines: list[Line]) -> str:
    """Return the scores of every patient as CSV: one row per method, mask, seed, fold, case and region."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "mask", "seed", "fold", "case", "patient", "region", *METRICS])
    writer.writerows(_csv_rows(lines))
    return text.getvalue()


def _csv_rows(lines: list[Line]) -> Iterator[list[Any]]:
    for line in lines:
        for row in line.rows:
            for named, scores in zip(row["sides"][row["scored"]], row["scores"][line.mask], strict=True):
                for region in line.regions:
                    figures = [f"{scores[f'{metric}.{region}']:.6g}" for metric in METRICS]
                    asked = row["asked"]
                    who = [asked["seed"], asked["fold"], named["case"], named["patient"]]
                    yield [line.method, line.mask, *who, region, *figures]


def _write_json(value: Mapping[str, Any], file: Path) -> None:
    _write_text(json.dumps(value, indent=2) + "\n", file)


def _write_text(text: str, file: Path) -> None:
    write_whole(file, lambda opened: opened.write(text.encode()))
