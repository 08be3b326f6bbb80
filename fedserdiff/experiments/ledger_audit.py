"""Comparison of a hospital's ledger with what the coordinator received: ``fedserdiff audit ledger``."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.comparison.summary import RAW_SCANS
from fedserdiff.errors import ConfigError, DataError
from fedserdiff.report.console import print_table
from sites.ledger import REFUSED, SENT, VERDICTS, Entry, read_ledger

_MOST_ROWS = 60
_ROWS_AT_EITHER_END = 20


def audit_ledger(
    console: Console,
    file: Path,
    received: Path | None = None,
    site: str | None = None,
    run: int | None = None,
    expected: str | None = None,
    every_row: bool = False,
) -> None:
    """Verify a ledger, print what left the hospital, and compare it with what the coordinator received.

    Parameters
    ----------
    console : Console
        Console to print to.
    file : Path
        The ledger.
    received, site
        A run's ``results.json`` and the hospital's name in it: both or neither.
    run : int, optional
        Flower's id of the run to account for; all runs by default.
    expected : str, optional
        A last hash that was noted earlier.
    every_row : bool
        Whether to print all rows of a long ledger.

    Raises
    ------
    ConfigError
        If an argument names something that does not exist.
    DataError
        As in `read_ledger`, and if the expected hash is missing, or ledger and coordinator differ.
    """
    if (received is None) != (site is None):
        raise ConfigError("--received and --site: give both or neither")
    chain = read_ledger(file)
    _check_head(file, chain, expected)
    entries = chain if run is None else _of_run(file, chain, run)
    arrived = None if received is None or site is None else _received(received, site)
    _show_entries(console, entries, every_row)
    _show_totals(console, entries)
    _show_span(console, chain, entries)
    if arrived is not None:
        _compare(console, entries, arrived)


def _check_head(file: Path, chain: Sequence[Entry], expected: str | None) -> None:
    if expected is not None and expected.strip().lower() not in {entry.hash for entry in chain}:
        raise DataError(
            f"{file}: none of its {len(chain)} entries has the hash {expected}: the ledger was cut off before that "
            "entry or rewritten, or the hash belongs to another ledger"
        )


def _of_run(file: Path, chain: Sequence[Entry], run: int) -> Sequence[Entry]:
    entries = [entry for entry in chain if entry.run == run]
    if not entries:
        runs = ", ".join(map(str, dict.fromkeys(entry.run for entry in chain))) or "none"
        raise ConfigError(f"{file}: has no entry of run {run}; its runs: {runs}")
    return entries


def _received(file: Path, site: str) -> Mapping[str, int]:
    """Return the bytes that the coordinator counted for a site, by kind of record."""
    try:
        by_site = json.loads(file.read_bytes())["bytes_out"]
        counts = {name: {str(kind): int(size) for kind, size in kinds.items()} for name, kinds in by_site.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(
            f"{file}: is not a run's results.json: it has no bytes_out by site and kind of record"
        ) from None
    if site not in counts:
        raise ConfigError(f"{file}: has no site {site}; its sites: {', '.join(counts) or 'none'}")
    return counts[site]


def _show_entries(console: Console, entries: Sequence[Entry], every_row: bool) -> None:
    table = _table("Decisions of the hospital", "#", "time, UTC", "message", "stage", "round", "verdict", "bytes out")
    left_out = 0 if every_row or len(entries) <= _MOST_ROWS else len(entries) - 2 * _ROWS_AT_EITHER_END
    for place, entry in enumerate(entries):
        if left_out and place == _ROWS_AT_EITHER_END:
            table.add_row("…", f"{left_out} more")
        if left_out and _ROWS_AT_EITHER_END <= place < _ROWS_AT_EITHER_END + left_out:
            continue
        verdict = f"{entry.verdict} ({entry.reason})" if entry.reason else entry.verdict
        place_in_run = ("–" if number is None else str(number) for number in (entry.stage, entry.server_round))
        table.add_row(
            str(entry.number), _plain(entry.time.rstrip("Z").replace("T", " ")), _plain(entry.message), *place_in_run,
            _plain(verdict), f"{entry.bytes:,}",
        )  # fmt: skip
    print_table(console, table)
    if left_out:
        console.print(f"{left_out} of {len(entries)} rows are not shown; --all shows them")


def _show_totals(console: Console, entries: Sequence[Entry]) -> None:
    verdicts = _table("By verdict", "verdict", "entries", "bytes out", "bytes held back")
    for verdict in VERDICTS:
        own = [entry for entry in entries if entry.verdict == verdict]
        held = sum(record.bytes for entry in own for record in entry.records) if verdict == REFUSED else 0
        verdicts.add_row(verdict, str(len(own)), f"{sum(entry.bytes for entry in own):,}", f"{held:,}")
    print_table(console, verdicts)
    sent, held_back = _by_record(entries, SENT), _by_record(entries, REFUSED)
    records = _table("By kind of record", "record", "bytes out", "bytes held back")
    for name in sorted({*sent, *held_back}):
        records.add_row(_plain(name), f"{sent[name]:,}", f"{held_back[name]:,}")
    print_table(console, records)


def _show_span(console: Console, chain: Sequence[Entry], entries: Sequence[Entry]) -> None:
    """Print a summary: total bytes, time span, the last hash and its use."""
    if not chain:
        console.print("The ledger is empty: it records nothing that left.")
        return
    first, last = (_plain(entry.time) for entry in (entries[0], entries[-1]))
    console.print(f"[bold]{sum(entry.bytes for entry in entries):,} bytes left[/bold] from {first} to {last}")
    console.print(f"The chain of {len(chain)} entries is intact; last hash: {chain[-1].hash}", soft_wrap=True)
    console.print(
        "A ledger whose last entries were cut off looks intact too. Note the last hash somewhere outside this "
        "hospital's disk; later --expect-head HASH fails if that entry is missing.",
        soft_wrap=True,
    )


def _compare(console: Console, entries: Sequence[Entry], received: Mapping[str, int]) -> None:
    """Print the ledger's bytes beside the coordinator's; raise an error if they differ."""
    sent = _by_record(entries, SENT)
    names = sorted({*sent, *received} - {RAW_SCANS})
    table = _table(
        "Bytes that left the hospital and reached the coordinator", "record", "left", "received", "difference"
    )
    differences = []
    for name in names:
        left, arrived = sent[name], received.get(name, 0)
        table.add_row(_plain(name), f"{left:,}", f"{arrived:,}", f"{left - arrived:+,}" if left != arrived else "0")
        if left != arrived:
            differences.append(f"{_printable(name)}: {left:,} left and {arrived:,} were received")
    print_table(console, table)
    if RAW_SCANS in received:
        console.print(
            f"Not compared: {received[RAW_SCANS]:,} bytes of {RAW_SCANS}. A simulation counts the scans that its "
            "method would have to move; no message carried them."
        )
    if differences:
        raise DataError(
            f"ledger and coordinator differ: {'; '.join(differences)}. If more left than was received, replies were "
            "lost, or entries belong to another run (--run). If more was received than left, something left without "
            "an entry"
        )
    console.print("Ledger and coordinator agree.")


def _by_record(entries: Sequence[Entry], verdict: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for entry in entries:
        if entry.verdict == verdict:
            for record in entry.records:
                total[record.name] += record.bytes
    return total


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column in ("#", "stage", "round", "entries", "left", "received", "difference") or "bytes" in column
        whole = number or column == "message"  # time and verdict can wrap at spaces
        table.add_column(column, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    return table


def _plain(text: str) -> str:
    """Return text of the file for a table, with rich markup escaped."""
    return escape(_printable(text))


def _printable(text: str) -> str:
    """Return text of the file without terminal control characters."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)
