"""Console output: complete figures and names, in a terminal of any width and in a log file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from fedserdiff.text import spell_out

PROGRAM = "fedserdiff"
"""Name of the command and of the installed distribution."""

_ENDLESS = 1_000_000  # columns: a file has no width limit
_REFRESHES_A_S = 4  # few, to leave the CPUs to the training hospitals
_LOG_EVERY_S = 60.0
_PACED = "paced"  # marks tasks whose steps take similar time


def open_console(stderr: bool = False, highlight: bool = True) -> Console:
    """Return a console on standard output, or on standard error.

    It spells out letters that the stream's encoding lacks, and does not wrap lines unless the stream is a terminal.
    """
    spell_out(sys.stderr if stderr else sys.stdout)
    console = Console(stderr=stderr, highlight=highlight)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def print_table(console: Console, table: Table) -> None:
    """Print a table without cutting words or figures: on a narrow console, cells wrap between words.

    If the console is narrower still, the table is wider than the console, and the terminal wraps its lines.
    """
    endless = console.options.update(max_width=_ENDLESS)
    widths, least = [], []
    for column in table.columns:
        column.width = None
        sizes = [console.measure(cell, options=endless) for cell in (column.header, *column.cells)]
        widths.append(max(size.maximum for size in sizes))
        least.append(widths[-1] if column.no_wrap else max(size.minimum for size in sizes))
    around = console.measure(table, options=endless).maximum - sum(widths)
    while sum(widths) + around > console.width and widths != least:
        widest = max(range(len(widths)), key=lambda place: (widths[place] > least[place], widths[place]))
        widths[widest] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    lines = console.render(table, console.options.update_width(sum(widths) + around))
    console.print(Segments(lines), crop=False, overflow="ignore", no_wrap=True, end="")


class Bars(Progress):
    """Progress bars in a terminal; in a log, an occasional plain line for each running task.

    Parameters
    ----------
    console : Console
        Console to write to.
    *columns : ProgressColumn or str
        As in rich's `Progress`.
    log_every_s : float
        Seconds between two plain lines in a log.
    """

    def __init__(self, console: Console, *columns: ProgressColumn | str, log_every_s: float = _LOG_EVERY_S) -> None:
        super().__init__(*columns, console=console, transient=True, refresh_per_second=_REFRESHES_A_S)
        self._log_every_s = log_every_s
        self._logged = self.get_time()

    def stop(self) -> None:
        """Stop the bars; rich's `Progress` would leave an empty line in a log."""
        self.live.stop()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task, as rich's `Progress.update` does."""
        super().update(task_id, **changes)
        shown = self.console.is_terminal and not self.console.is_dumb_terminal
        if shown or self.get_time() - self._logged < self._log_every_s:
            return
        self._logged = self.get_time()
        for task in self.tasks:
            if not task.finished:
                done = f": {task.completed:g} of {task.total:g}" if task.total else ""
                pace = f", {_pace(task)}" if task.fields.get(_PACED) and _pace(task) else ""
                self.console.print(f"{task.description}{done}{pace}", highlight=False)


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (what, done, total) that shows a bar for each `what`, its pace and the time left.

    Make the first call for each `what` when its work begins: the pace is measured from then on.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _PaceColumn())
    with Bars(console, *columns) as progress:
        bars: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total, **{_PACED: True})
            progress.update(bars[what], completed=done, total=total)

        yield show


class _PaceColumn(ProgressColumn):
    """A column with the pace of a task."""

    def render(self, task: Task) -> Text:
        return Text(_pace(task))


def _pace(task: Task) -> str:
    """Return a task's pace since it began and the time left; "" before the first step and after the last."""
    if task.finished or not task.completed or not task.elapsed or task.total is None:
        return ""
    left = (task.total - task.completed) * task.elapsed / task.completed
    pace, unit = task.completed / task.elapsed, "a second"
    for longer in ("a minute", "an hour"):
        if pace < 1:
            pace, unit = 60 * pace, longer
    return f"{pace:.1f} {unit}, {duration(left)} left" if pace < 10 else f"{pace:.0f} {unit}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a duration as text in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def warn(console: Console, text: str) -> None:
    """Print a warning line in yellow."""
    console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)


def as_called(command: str) -> str:
    """Return how to call a command, in the same way as the running command was called."""
    context = click.get_current_context(silent=True)
    called = PROGRAM if context is None else context.find_root().info_name
    return f"{PROGRAM} {command}" if called == PROGRAM else f"python scripts/{command}.py"
