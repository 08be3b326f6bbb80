"""Write a federation file from a table of cases and institutions: each institution a hospital."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.case_table import read_case_table
from fedserdiff.data.cases import rows_of, split_patients
from fedserdiff.data.decathlon import MSD
from fedserdiff.data.releases import RELEASES
from fedserdiff.division import (
    ArrivalOrder,
    Division,
    FoundCases,
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
from fedserdiff.settings.sources import make_settings
from fedserdiff.text import read_rows, readable

_MOST_NAMES = 5  # in one sentence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    table: Annotated[Path, typer.Argument(help="CSV file with a header: a case and its institution in each row.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the cases, nested or flat.")],
    out: Annotated[Path, typer.Option(help="The federation file.")] = Path("federation.toml"),
    release: Annotated[
        str | None,
        typer.Option(
            help=f"Whose names and labels the cases have: {', '.join((*RELEASES, MSD))}, or a TOML file.",
            show_default="the only one that names cases so",
        ),
    ] = None,
    minimum: Annotated[int, typer.Option(help="Cases that a hospital has at least; others are left out.")] = 2,
    order: Annotated[
        ArrivalOrder, typer.Option(help="Of arrival: most cases first, as listed, or earliest.")
    ] = ArrivalOrder.SIZE,
    test_share: Annotated[
        float | None,
        typer.Option(help="Share of each hospital's patients to test on.", show_default="data.test_share"),
    ] = None,
    test_list: Annotated[
        Path | None, typer.Option(help="File that names the patients, or cases, to test on, one a line.")
    ] = None,
) -> None:
    """Give each case to the hospital that the table names; print the hospitals, and what is in none of them."""
    console = open_console()
    with clear_errors("nothing was written"):
        if test_share is not None and test_list is not None:
            raise ConfigError("--test-share, --test-list: leave one of them out")
        if out.exists():
            raise ConfigError(f"--out: {out}: is there already: give another file")
        chosen = {} if test_share is None else {"data.test_share": test_share}
        share = make_settings("laptop", chosen).data.test_share
        name = release or find_release(folder)
        found = find_all(folder, name)
        rows = read_case_table(table, found.patients, order is ArrivalOrder.DATE)
        try:
            division = divide(rows, found, minimum, order)
        except ConfigError as error:
            raise ConfigError(f"{table}: {error}") from None
        if not division.hospitals:
            raise ConfigError(f"{table}: no hospital has {minimum} cases of at least two patients: lower --minimum")
        unlisted: list[str] = []
        if test_list is not None:
            listed = [cells[0] for _, cells in read_rows(test_list) if cells and cells[0]]
            here = {one for share in division.hospitals for case in share.cases for one in (case, found.patients[case])}
            unlisted = [one for one in listed if one not in here]
            try:
                division = hold_out_listed(division, listed, found)
            except ConfigError as error:
                raise ConfigError(*(f"{test_list}: {fault}" for fault in error.faults)) from None
        text = federation_text(division, found, name, folder, out, test_share)
        write_whole(out, lambda file: file.write(text.encode()))
    print_table(console, _table(division, found, share))
    small = [f"{share.name} ({len(share.cases)})" for share in division.small]
    _say(console, "Left out, of too few cases or patients", small)
    if found.bad:
        print_table(console, bad_cases_table(rows_of(found.bad)))
    _say(console, "Left out, for a file lacks or is not one", sorted(found.bad))
    _say(console, "In the table, not on disk", [one for one in division.not_there if one not in found.bad])
    _say(console, "On disk, of no institution in the table", division.nobodys)
    _say(console, "In the list of test patients, of no hospital here", unlisted)
    console.print(f"{len(division.hospitals)} hospitals: {escape(str(out))}", highlight=False, soft_wrap=True)


def _table(division: Division, found: FoundCases, test_share: float) -> Table:
    table = Table(title=f"Hospitals of {found.convention.name}", title_justify="left", title_style="bold")
    for number, column in enumerate(("hospital", "cases", "patients", "test patients")):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for share in division.hospitals:
        patients = {found.patients[case] for case in share.cases}
        test = {found.patients[case] for case in share.test_cases}
        if not test:
            _, test = split_patients(patients, test_share, share.name)
        table.add_row(share.name, str(len(share.cases)), str(len(patients)), str(len(test)))
    return table


def _say(console: Console, what: str, names: Sequence[str]) -> None:
    """Say how many there are, and the first names, where there are any."""
    if names:
        shown = ", ".join(readable(name) for name in names[:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        console.print(escape(f"{what}: {len(names)}: {shown}{more}"), highlight=False, soft_wrap=True)
