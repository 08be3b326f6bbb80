"""How every command line ends when something is wrong: one clear line and an exit code, never a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from fedserdiff.errors import FedSerDiffError


@contextmanager
def clear_errors(kept: str) -> Iterator[None]:
    """Turn a user's mistake, a failing disk or Ctrl-C into a message on stderr; exit with 1, or 130 for Ctrl-C.

    `kept` tells whoever stops the command what is not lost.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's end is a Ctrl-C: nothing is left running
    try:
        yield
    except FedSerDiffError as error:
        _say("error", str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        _say("error", f"{error.filename or 'disk'}: {error.strerror or error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        _say("stopped", kept)
        sys.stdout.flush()
        os._exit(130)  # Flower's server thread would otherwise keep the process until its round times out


def _say(what: str, text: str) -> None:
    console = Console(stderr=True)
    console.print(f"[bold red]{what}:[/bold red] {escape(text)}", highlight=False, soft_wrap=True)
