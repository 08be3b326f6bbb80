"""Child processes that end together with their parent, however it ends."""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Make Linux send this process a signal when the thread of `parent` that started it ends, even by ``kill -9``.

    Call it first in the child process, for example as the ``preexec_fn`` of a subprocess.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, number)
        if os.getppid() != parent:  # it has already ended
            os.kill(os.getpid(), number)
