"""Whose each case is: a table of cases and institutions, as challenges publish one and hospitals keep one."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedserdiff.errors import ConfigError
from fedserdiff.text import read_rows

INSTITUTION = ("institution", "institute", "hospital", "site", "centre", "center", "partitionid", "partition", "client")
"""Headers of the column that says whose a case is, in small letters and digits alone; an earlier one counts first."""

DATE = ("date", "scandate", "studydate", "acquisitiondate", "arrival", "year")
"""Headers of the column that says when a case came."""

_NOTHING = frozenset({"", "na", "n/a", "nan", "none", "null"})
_OF_A_SOURCE = re.compile(r"brats1[789]_(\w+?)_\w+_\d+", re.IGNORECASE)  # BraTS 2017 to 2019 name who gave a case


@dataclass(frozen=True)
class TableRow:
    """A row that names a case.

    Attributes
    ----------
    line : int
        Where it ends in the table's file.
    name : str
        Of a case, or of a patient with all their cases.
    institution : str
        Empty where the row names none.
    date : date or None
        Where dates were asked for.
    """

    line: int
    name: str
    institution: str
    date: datetime.date | None


def read_case_table(file: Path, known: Mapping[str, str], dated: bool) -> list[TableRow]:
    """Read a CSV table with a header, whose rows name a case each and the institution it is of.

    The column of cases is the one that names most of the `known`, whatever its header. The institution's is found by
    its header, as in `INSTITUTION`; without one, a column of names of BraTS 2017 to 2019 tells it, for they hold it.

    Parameters
    ----------
    file : Path
        The table.
    known : mapping of str to str
        By the names of cases that are there, their patients; a row may name either.
    dated : bool
        Whether a column of dates, as in `DATE`, is needed.

    Raises
    ------
    ConfigError
        As `read_rows`, and where a column is not found, a date is none, or a case is of two institutions.
    """
    header, *rows = read_rows(file) or [(0, [])]
    if not rows:
        raise ConfigError(f"{file}: has no row below its header: expected a case and its institution in each")
    width = max(len(cells) for _, cells in rows)
    names = [*header[1], *[""] * width][:width]
    columns = [[cells[number] if number < len(cells) else "" for _, cells in rows] for number in range(width)]
    cases = _column_of_cases(file, columns, known)
    institutions = _institutions(file, names, columns, cases)
    dates = _dates(file, names, columns, [line for line, _ in rows]) if dated else [None] * len(rows)
    found: dict[str, TableRow] = {}
    for (line, _), name, institution, date in zip(rows, columns[cases], institutions, dates, strict=True):
        if name.lower() in _NOTHING:
            continue
        row = TableRow(line, name, "" if institution.lower() in _NOTHING else institution, date)
        earlier = found.setdefault(name, row)
        if earlier.institution != row.institution:
            raise ConfigError(
                f"{file}: line {line}: {name} is of {row.institution or 'no institution'} here, and of "
                f"{earlier.institution or 'no institution'} in line {earlier.line}"
            )
    return list(found.values())


def _column_of_cases(file: Path, columns: Sequence[Sequence[str]], known: Mapping[str, str]) -> int:
    there = {*known, *known.values()}
    counts = [len(there.intersection(column)) for column in columns]
    if not any(counts):
        raise ConfigError(f"{file}: no column names a case that is there, such as {next(iter(known))}")
    return counts.index(max(counts))


def _institutions(file: Path, names: Sequence[str], columns: Sequence[Sequence[str]], cases: int) -> Sequence[str]:
    number = _by_header(names, INSTITUTION)
    if number is not None and number != cases:
        return columns[number]
    for column in columns:
        sources = [match[1] if (match := _OF_A_SOURCE.fullmatch(cell)) else "" for cell in column]
        if any(sources):
            return sources
    there = ", ".join(names)
    raise ConfigError(f"{file}: no column of institutions: call it one of {', '.join(INSTITUTION)}; there are {there}")


def _dates(
    file: Path, names: Sequence[str], columns: Sequence[Sequence[str]], lines: Sequence[int]
) -> list[datetime.date | None]:
    number = _by_header(names, DATE)
    if number is None:
        raise ConfigError(f"{file}: no column of dates: call it one of {', '.join(DATE)}")
    dates: list[datetime.date | None] = []
    for line, cell in zip(lines, columns[number], strict=True):
        try:
            year = re.fullmatch(r"\d{4}", cell)
            text = f"{cell}-01-01" if year else cell
            dates.append(None if cell.lower() in _NOTHING else datetime.date.fromisoformat(text))
        except ValueError:
            raise ConfigError(
                f"{file}: line {line}: {names[number]}: {cell!r} is no date such as 2024-03-31, 20240331 or 2024"
            ) from None
    return dates


def _by_header(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    return next((plain.index(name) for name in wanted if name in plain), None)
