"""Locks of files, which several processes of one machine, or of several, may want at once.

A lock is a safety step, not the work itself: some network file systems have none. There the work goes on without,
and a warning says so once.
"""

import errno
import fcntl
import logging
import os
import time
from functools import cache

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What the system answers where another process holds the lock; any other answer means that there are no locks."""

_AGAIN_S, _PATIENCE_S = 0.2, 60


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process alone, unless another one holds it; return whether nobody else holds it.

    The lock ends when the file is closed, or when the process ends in whatever way. On a file system without locks
    nobody can be known to hold one: True, and a warning.
    """
    return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(descriptor: int, shared: bool = False) -> None:
    """Lock an open file, waiting for others that hold it; `shared` only keeps out who changes the file.

    On a file system without locks it returns at once, with a warning.

    Raises
    ------
    BlockingIOError
        If a file system that does not wait by itself says for a minute that others hold it.
    """
    end = time.monotonic() + _PATIENCE_S
    while not _flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        if time.monotonic() > end:
            raise BlockingIOError(errno.EAGAIN, f"another process has held its lock for {_PATIENCE_S} s")
        time.sleep(_AGAIN_S)


def _flock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno in _HELD:
            return False
        _warn(os.strerror(error.errno or errno.ENOLCK))
    return True


@cache
def _warn(reason: str) -> None:
    """Say once that there are no locks, on stderr or in the log of who uses this as a library."""
    logging.getLogger(__name__).warning(
        "warning: the file system has no locks (%s): see that no second process works in the same folder", reason
    )
