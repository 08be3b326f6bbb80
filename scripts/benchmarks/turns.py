"""Tasks that take turns of a few seconds, so that slow drifts of the machine's speed affect all of them equally."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from fedserdiff.errors import FedSerDiffError

from benchmarks.process_memory import below

T = TypeVar("T")


class Track:
    """The channel on which a task reports to its timer that it is ready, and that it has ended."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def start(self) -> None:
        """Report that the task is ready, and wait for the first turn."""
        self._pipe.send(None)
        self._pipe.recv()

    def end(self) -> None:
        """Report the end of the timed part; later work is not timed."""
        self._pipe.send(time.monotonic())


def take_turns(
    work: Callable[[Track, T], None], arguments: Sequence[T], turn_s: float, timeout_s: float
) -> list[float]:
    """Call ``work(track, argument)`` for each argument in a new process, in turns; return the seconds of each.

    A waiting process is stopped, together with its child processes. Processes get ready one after another. After their
    timed parts, all finish at the same time.

    Parameters
    ----------
    work : callable
        Importable function; its arguments must be picklable.
    arguments : sequence
        One argument per process.
    turn_s : float
        Length of a turn in seconds.
    timeout_s : float
        Longest time that a process may take to get ready, to reach its end, or to finish after it.

    Raises
    ------
    FedSerDiffError
        If a process ends early or takes too long.
    """
    runners: list[_Runner] = []
    try:
        for argument in arguments:
            runners.append(_Runner(work, argument))
            runners[-1].get_ready(timeout_s)
        end = time.monotonic() + timeout_s * len(runners)
        while running := [runner for runner in runners if not runner.ended]:
            for runner in running:
                runner.run(turn_s)
            if time.monotonic() > end:
                raise FedSerDiffError(f"{len(running)} of {len(runners)} had not ended within {timeout_s:g} s each")
        for runner in runners:
            runner.finish(timeout_s)
    finally:
        for runner in runners:
            runner.kill()
    return [runner.seconds for runner in runners]


class _Runner:
    """One process, with the seconds that it has run."""

    def __init__(self, work: Callable[[Track, T], None], argument: T) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_call, args=(work, there, argument))
        self._process.start()
        there.close()
        self.seconds = 0.0
        self.ended = False

    def get_ready(self, timeout_s: float) -> None:
        self._hear(timeout_s, "ready")
        self._signal(signal.SIGSTOP)
        self._pipe.send(None)

    def run(self, turn_s: float) -> None:
        began = time.monotonic()
        self._signal(signal.SIGCONT)
        self.ended = self._pipe.poll(turn_s)
        ends = self._hear(0, "at its end") if self.ended else time.monotonic()
        self._signal(signal.SIGSTOP)
        self.seconds += ends - began

    def finish(self, timeout_s: float) -> None:
        self._signal(signal.SIGCONT)
        if not wait([self._process.sentinel], timeout_s):
            raise FedSerDiffError(f"a process had not finished {timeout_s:g} s after its end")

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.join()

    def _hear(self, timeout_s: float, what: str) -> float:
        if not self._pipe.poll(timeout_s):
            raise FedSerDiffError(f"a process was not {what} within {timeout_s:g} s")
        try:
            return float(self._pipe.recv() or 0.0)
        except EOFError:
            raise FedSerDiffError(f"a process ended before it was {what}: see what it printed") from None

    def _signal(self, number: signal.Signals) -> None:
        root = self._process.pid
        assert root is not None  # it has been started
        for pid in [root, *below(root)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _call(work: Callable[[Track, T], None], pipe: Connection, argument: T) -> None:
    work(Track(pipe), argument)
