"""Run a function in a separate process, so that its peak memory can be measured."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from fedserdiff.errors import FedSerDiffError

from benchmarks.process_memory import peaks

T = TypeVar("T")
R = TypeVar("R")


def run_apart(function: Callable[[T], R], argument: T, what: str, timeout_s: float) -> tuple[R, float]:
    """Return ``function(argument)``, computed in a new process, and the peak memory of that process in MiB.

    The function and its argument must be importable and picklable. The peak includes the interpreter, torch and data.

    Raises
    ------
    FedSerDiffError
        If the process ended without an answer, or took too long; the message begins with `what`.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, function, argument))
    process.start()
    there.close()
    try:
        if not here.poll(timeout_s):
            raise FedSerDiffError(f"{what}: no answer within {timeout_s:g} s")
        answer: tuple[R, float] = here.recv()
    except EOFError:
        raise FedSerDiffError(f"{what}: its process ended without an answer: did it run out of memory?") from None
    finally:
        process.kill()
        process.join()
    return answer


def _answer(there: Connection, function: Callable[[T], R], argument: T) -> None:
    there.send((function(argument), peaks()["coordinator"]))
