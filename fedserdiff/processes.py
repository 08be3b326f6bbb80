"""Processes that end with the one that started them, whatever ends it."""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Have Linux send this process a signal when the thread of `parent` that started it ends, by ``kill -9`` say.

    To be called first of all in the process that was started, as by the ``preexec_fn`` of a subprocess.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, number)
        if os.getppid() != parent:  # it has ended already
            os.kill(os.getpid(), number)
