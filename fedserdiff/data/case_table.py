"""Tables that say which institution each case comes from, as challenges publish them and hospitals keep them."""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedserdiff.errors import ConfigError
from fedserdiff.text import read_rows

INSTITUTION = ("institution", "institute", "hospital", "site", "centre", "center", "partitionid", "partition", "client")
"""Accepted headers of the institution column, in lower-case letters and digits; earlier ones take precedence."""

DATE = ("date", "scandate", "studydate", "acquisitiondate", "arrival", "year")
"""Accepted headers of the column that says when a case arrived."""

_NOTHING = frozenset({"", "na", "n/a", "nan", "none", "null"})
_OF_A_SOURCE = re.compile(r"brats1[789]_(\w+?)_\w+_\d+", re.IGNORECASE)  # BraTS 2017 to 2019 name the institution


@dataclass(frozen=True)
class TableRow:
    """One row of a case table.

    Attributes
    ----------
    line : int
        Line of the file on which the row ends.
    name : str
        Name of a case, or of a patient, which covers all cases of that patient.
    institution : str
        Empty if the row names none.
    date : date or None
        None if dates were not requested, or the row has none.
    """

    line: int
    name: str
    institution: str
    date: datetime.date | None


def read_case_table(file: Path, known: Mapping[str, str], dated: bool) -> list[TableRow]:
    """Read a CSV table with a header, in which each row names a case and its institution.

    The case column is the one that names most of the `known` cases; its header does not matter. The institution column
    is found by its header (see `INSTITUTION`). Without one, the institutions are read from case names of BraTS 2017 to
    2019, which contain them.

    Parameters
    ----------
    file : Path
        The table.
    known : mapping of str to str
        Patient of each case found on disk, by case name. A row may name the case or the patient.
    dated : bool
        Whether to require a date column (see `DATE`).

    Raises
    ------
    ConfigError
        As for `read_rows`, and if a column is not found, a date is not valid, or a case has two institutions.
    """
    header, *rows = read_rows(file) or [(0, [])]
    if not rows:
        raise ConfigError(f"{file}: no rows below the header: each row must give a case and its institution")
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
                f"{file}: line {line}: {name} belongs to {row.institution or 'no institution'} here, but to "
                f"{earlier.institution or 'no institution'} in line {earlier.line}"
            )
    return list(found.values())


def _column_of_cases(file: Path, columns: Sequence[Sequence[str]], known: Mapping[str, str]) -> int:
    there = {*known, *known.values()}
    counts = [len(there.intersection(column)) for column in columns]
    if not any(counts):
        raise ConfigError(f"{file}: no column names any of the cases on disk, such as {next(iter(known))}")
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
    raise ConfigError(f"{file}: no institution column: call it one of {', '.join(INSTITUTION)}; the file has {there}")


def _dates(
    file: Path, names: Sequence[str], columns: Sequence[Sequence[str]], lines: Sequence[int]
) -> list[datetime.date | None]:
    number = _by_header(names, DATE)
    if number is None:
        raise ConfigError(f"{file}: no date column: call it one of {', '.join(DATE)}")
    dates: list[datetime.date | None] = []
    for line, cell in zip(lines, columns[number], strict=True):
        try:
            year = re.fullmatch(r"\d{4}", cell)
            text = f"{cell}-01-01" if year else cell
            dates.append(None if cell.lower() in _NOTHING else datetime.date.fromisoformat(text))
        except ValueError:
            raise ConfigError(
                f"{file}: line {line}: {names[number]}: {cell!r} is not a date such as 2024-03-31, 20240331 or 2024"
            ) from None
    return dates


def _by_header(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
    return next((plain.index(name) for name in wanted if name in plain), None)
