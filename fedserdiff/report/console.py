"""Where commands print: whole figures and names, in a terminal of any width and in a log alike."""

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
"""The command that all command lines are parts of, and the name of what is installed."""

_ENDLESS = 1_000_000  # columns: a file has no right edge
_REFRESHES_A_S = 4  # the hospitals at work want the CPUs more
_LOG_EVERY_S = 60.0
_PACED = "paced"  # a field of tasks whose steps are alike


def open_console(stderr: bool = False, highlight: bool = True) -> Console:
    """Return a console on standard output, or on standard error.

    It prints letters that the stream's encoding lacks spelt out, and breaks no line where the stream is no terminal.
    """
    spell_out(sys.stderr if stderr else sys.stdout)
    console = Console(stderr=stderr, highlight=highlight)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def print_table(console: Console, table: Table) -> None:
    """Print a table whose words and figures are whole: where the console is too narrow, cells break between words.

    Where it is narrower still, the table's lines are longer than the console's, and the terminal breaks them.
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
    """Progress bars in a terminal; in a log a plain line now and then of each task that goes on.

    Parameters
    ----------
    console : Console
        Where to.
    *columns : ProgressColumn or str
        As of rich's `Progress`.
    log_every_s : float
        Seconds between two plain lines.
    """

    def __init__(self, console: Console, *columns: ProgressColumn | str, log_every_s: float = _LOG_EVERY_S) -> None:
        super().__init__(*columns, console=console, transient=True, refresh_per_second=_REFRESHES_A_S)
        self._log_every_s = log_every_s
        self._logged = self.get_time()

    def stop(self) -> None:
        """End the bars; rich's `Progress` would leave an empty line in a log."""
        self.live.stop()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task, as rich's `Progress.update` does."""
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

    The first call of each `what` is made as its work begins: the pace is that of the time since.
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
    """Shows the pace of a task."""

    def render(self, task: Task) -> Text:
        return Text(_pace(task))


def _pace(task: Task) -> str:
    """Return a task's pace since it began, and the time left at that; "" before its first step and after its last."""
    if task.finished or not task.completed or not task.elapsed or task.total is None:
        return ""
    left = (task.total - task.completed) * task.elapsed / task.completed
    pace, unit = task.completed / task.elapsed, "a second"
    for longer in ("a minute", "an hour"):
        if pace < 1:
            pace, unit = 60 * pace, longer
    return f"{pace:.1f} {unit}, {duration(left)} left" if pace < 10 else f"{pace:.0f} {unit}, {duration(left)} left"


def duration(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def warn(console: Console, text: str) -> None:
    """Print a line that the person who started the command should not miss."""
    console.print(f"[yellow]{escape(text)}[/yellow]", highlight=False, soft_wrap=True)


def as_called(command: str) -> str:
    """Return how to call one of the command lines, in the way in which the one that runs, if any, was called."""
    context = click.get_current_context(silent=True)
    called = PROGRAM if context is None else context.find_root().info_name
    return f"{PROGRAM} {command}" if called == PROGRAM else f"python scripts/{command}.py"
