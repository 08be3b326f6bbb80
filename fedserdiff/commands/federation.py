"""Write a federation file from a table of cases and institutions; each institution becomes a hospital."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.case_table import read_case_table
from fedserdiff.data.cases import rows_of
from fedserdiff.data.decathlon import MSD
from fedserdiff.data.releases import RELEASES
from fedserdiff.data.split import Split, split_patients
from fedserdiff.division import (
    ArrivalOrder,
    Division,
    FoundCases,
    Share,
    divide,
    federation_text,
    find_all,
    find_release,
    hold_out_listed,
)
from fedserdiff.errors import ConfigError
from fedserdiff.files import write_whole
from fedserdiff.report.bad_cases import bad_cases_table
from fedserdiff.report.console import open_console, print_table
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.text import first_few, read_rows, readable

_MOST_NAMES = 5  # in one sentence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    table: Annotated[Path, typer.Argument(help="CSV file with a header and a case with its institution in each row.")],
    folder: Annotated[Path, typer.Argument(help="Folder with the cases, nested or flat.")],
    out: Annotated[Path, typer.Option(help="Federation file to write.")] = Path("federation.toml"),
    release: Annotated[
        str | None,
        typer.Option(
            help=f"Release whose names and labels the cases have: {', '.join((*RELEASES, MSD))}, or a TOML file.",
            show_default="the only release whose names match the cases",
        ),
    ] = None,
    minimum: Annotated[
        int, typer.Option(help="Smallest number of cases for a hospital; smaller ones are left out.")
    ] = 2,
    order: Annotated[
        ArrivalOrder, typer.Option(help="Order of arrival: most cases first, as listed, or earliest first.")
    ] = ArrivalOrder.SIZE,
    test_share: Annotated[
        float | None,
        typer.Option(help="Share of each hospital's patients held out for testing.", show_default="data.test_share"),
    ] = None,
    test_list: Annotated[
        Path | None, typer.Option(help="File that names the test patients or cases, one on each line.")
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(help="Share of each hospital's patients held out for choosing settings.", show_default="none"),
    ] = None,
    validation_list: Annotated[
        Path | None, typer.Option(help="File that names the validation patients or cases, one on each line.")
    ] = None,
) -> None:
    """Assign each case to the hospital that the table names; print the hospitals and the cases that are in none."""
    console = open_console()
    with clear_errors("nothing was written"):
        sides = {"test": (test_share, test_list), "validation": (validation_share, validation_list)}
        for side, (share, file) in sides.items():
            if share is not None and file is not None:
                raise ConfigError(f"--{side}-share, --{side}-list: give only one of them")
        if out.exists():
            raise ConfigError(f"--out: {out}: already exists; choose another file")
        shares = {f"{side}_share": share for side, (share, _) in sides.items() if share is not None}
        config = make_settings("laptop", {f"data.{name}": share for name, share in shares.items()})
        least = 2 if validation_list is None and not config.data.validation_share else 3  # one patient for each split
        name = release or find_release(folder)
        found = find_all(folder, name)
        rows = read_case_table(table, found.patients, order is ArrivalOrder.DATE)
        try:
            division = divide(rows, found, minimum, least, order)
        except ConfigError as error:
            raise ConfigError(f"{table}: {error}") from None
        if not division.hospitals:
            count = "two" if least == 2 else "three"
            raise ConfigError(f"{table}: no hospital has {minimum} cases of at least {count} patients; lower --minimum")
        lists = {side: file for side, (_, file) in sides.items() if file is not None}
        listed = {
            side: [cells[0] for _, cells in read_rows(file) if cells and cells[0]] for side, file in lists.items()
        }
        if lists:
            try:
                division = hold_out_listed(division, {f"{side}_cases": names for side, names in listed.items()}, found)
            except ConfigError as error:
                where = ", ".join(map(str, lists.values()))
                raise ConfigError(*(f"{where}: {fault}" for fault in error.faults)) from None
        splits = [_split(share, found, config) for share in division.hospitals]
        text = federation_text(division, found, name, folder, out, shares)
        write_whole(out, lambda opened: opened.write(text.encode()))
    print_table(console, _table(division, found, splits))
    small = [f"{share.name} ({len(share.cases)})" for share in division.small]
    _say(console, "Left out (too few cases or patients)", small)
    if found.bad:
        print_table(console, bad_cases_table(rows_of(found.bad)))
    _say(console, "Left out (a file is missing or unreadable)", sorted(found.bad))
    _say(console, "In the table but not on disk", [one for one in division.not_there if one not in found.bad])
    _say(console, "On disk but without an institution in the table", division.nobodys)
    here = {one for share in division.hospitals for case in share.cases for one in (case, found.patients[case])}
    for side, names in listed.items():
        _say(
            console,
            f"In the list of {side} patients but in none of these hospitals",
            [one for one in names if one not in here],
        )
    console.print(f"{len(division.hospitals)} hospitals: {escape(str(out))}", highlight=False, soft_wrap=True)


def _split(share: Share, found: FoundCases, config: Settings) -> Split:
    """Return a hospital's patient split, as a run with the written file will have it."""
    site = Site(share.name, "", "", share.cases, test_cases=share.test_cases, validation_cases=share.validation_cases)
    return split_patients(site, {case: found.patients[case] for case in share.cases}, config)


def _table(division: Division, found: FoundCases, splits: Sequence[Split]) -> Table:
    table = Table(title=f"Hospitals of {found.convention.name}", title_justify="left", title_style="bold")
    validating = any(split.validation for split in splits)
    held_out = ("validation patients", "test patients") if validating else ("test patients",)
    for number, column in enumerate(("hospital", "cases", "patients", *held_out)):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for share, split in zip(division.hospitals, splits, strict=True):
        patients = {found.patients[case] for case in share.cases}
        counts = [len(share.cases), len(patients), *([len(split.validation)] if validating else []), len(split.test)]
        table.add_row(share.name, *map(str, counts))
    return table


def _say(console: Console, what: str, names: Sequence[str]) -> None:
    """Print the number of names and the first few, if there are any."""
    if names:
        shown = first_few([readable(name) for name in names], _MOST_NAMES)
        console.print(escape(f"{what}: {len(names)}: {shown}"), highlight=False, soft_wrap=True)
