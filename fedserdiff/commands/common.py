"""Code that all commands share: parsing of lists, and errors shown as messages instead of tracebacks."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from fedserdiff.errors import BadCasesError, ConfigError, FedSerDiffError, os_error_text
from fedserdiff.report.bad_cases import bad_cases_table
from fedserdiff.report.console import open_console, print_table


@contextmanager
def clear_errors(kept: str, go_on: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn a user's mistake, a failing disk or Ctrl-C into a message on stderr; exit with 1, or 130 for Ctrl-C.

    `kept` is the message after Ctrl-C: what is not lost. `go_on` returns how to continue from there, or an empty text.
    """
    # a scheduler's SIGTERM counts as Ctrl-C, so nothing keeps running
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except ConfigError as error:  # the request itself is wrong, so continuing would not help
        _say("error", str(error), "")
        raise typer.Exit(1) from None
    except BadCasesError as error:
        count = len({(fault.site, fault.case) for fault in error.found})
        _say("error", "\n".join([*error.others, f"{count} case{'' if count == 1 else 's'} cannot be used"]), "")
        console = open_console(stderr=True, highlight=False)
        print_table(console, bad_cases_table(error.found))
        console.print(escape("\n".join(filter(None, [error.advice, go_on()]))), soft_wrap=True)
        raise typer.Exit(1) from None
    except FedSerDiffError as error:
        _say("error", str(error), go_on())
        raise typer.Exit(1) from None
    except OSError as error:
        _say("error", os_error_text(error), go_on())
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("stopped", kept, go_on())
        sys.stdout.flush()
        os._exit(130)  # Flower's server thread would otherwise keep the process until its round times out


def listed(text: str, option: str) -> list[str]:
    """Return the comma-separated items of an option.

    Raises
    ------
    ConfigError
        If there is no item, or an item is named twice.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ConfigError(f"{option}: is empty; name at least one item")
    if twice := [item for place, item in enumerate(items) if item in items[:place]]:
        raise ConfigError(f"{option}: {twice[0]} is named twice")
    return items


def seeds_of(text: str) -> list[int]:
    """Return the seeds given with ``--seeds``.

    Raises
    ------
    ConfigError
        If there is no seed, a seed is named twice, or one is not a whole number.
    """
    items = listed(text, "--seeds")
    for item in items:
        if not (item.isascii() and item.isdecimal()):
            raise ConfigError(f"--seeds: {item!r} is not a whole number")
    return list(map(int, listed(",".join(str(int(item)) for item in items), "--seeds")))  # 0 and 00 are the same seed


def _say(what: str, text: str, go_on: str) -> None:
    console = open_console(stderr=True, highlight=False)
    console.print(f"[bold red]{what}:[/bold red] {escape(text)}", soft_wrap=True)
    if go_on:
        console.print(escape(go_on), soft_wrap=True)
