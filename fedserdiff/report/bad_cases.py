"""Unusable cases, one row for each fault: a table to read and a CSV file to work through."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from datetime import datetime
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from fedserdiff.errors import BadCasesError, CaseFault, os_error_text
from fedserdiff.text import SPELT_OUT

SKIPPED = "skipped.csv"
"""File in a run's directory that lists the skipped cases."""

_COLUMNS = tuple(field.name for field in fields(CaseFault))


def bad_cases_table(found: Sequence[CaseFault]) -> Table:
    """Return a table of all faults. The common folder is in the title, because long paths do not wrap in cells."""
    try:
        folder = os.path.commonpath([os.path.dirname(fault.file) for fault in found])
    except ValueError:  # some paths are relative, others absolute
        folder = ""
    title = f"Cases that cannot be used, in {folder}" if folder else "Cases that cannot be used"
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for column in _COLUMNS:
        table.add_column(column)
    for fault in found:
        file = os.path.relpath(fault.file, folder) if folder else fault.file
        table.add_row(*map(escape, astuple(replace(fault, file=file))))
    return table


def bad_cases_csv(found: Sequence[CaseFault]) -> bytes:
    """Return all faults as CSV in UTF-8, with a header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_COLUMNS, *map(astuple, found)])
    return text.getvalue().encode("utf-8", SPELT_OUT)


def with_list(error: BadCasesError, folder: Path, advice: str = "") -> BadCasesError:
    """Write an error's faults to a file in `folder`; return the error with that file and `advice` in its advice.

    Each call writes a new file, because somebody may be working in the last one.
    """
    try:
        listed = f"Listed in {_write_new(folder, bad_cases_csv(error.found))}"
    except OSError as refusal:
        listed = f"The list of cases could not be written: {os_error_text(refusal)}"
    return BadCasesError(*error.found, others=error.others, advice="\n".join(filter(None, [listed, advice])))


def _write_new(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name, number = f"{datetime.now():%Y%m%d-%H%M%S}-bad-cases", 1
    while True:
        file = folder / (f"{name}.csv" if number == 1 else f"{name}-{number}.csv")
        try:
            with file.open("xb") as opened:
                opened.write(content)
        except FileExistsError:
            number += 1
        else:
            return file
