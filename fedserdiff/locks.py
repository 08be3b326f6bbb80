"""File locks between processes, on one machine or several.

A lock is only a safety measure, and some network file systems have none. There, the work continues without a lock, with
one warning.
"""

import errno
import fcntl
import logging
import os
import time
from functools import cache

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""Errors if another process holds the lock; any other error means that locks are not supported."""

_AGAIN_S, _PATIENCE_S = 0.2, 60


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file for this process alone; return False if another process holds the lock.

    The lock ends when the file is closed or the process ends in any way. On a file system without locks, the result is
    True, with a warning.
    """
    return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(descriptor: int, shared: bool = False) -> None:
    """Lock an open file, and wait if others hold the lock; a `shared` lock only excludes writers.

    On a file system without locks, it returns at once, with a warning.

    Raises
    ------
    BlockingIOError
        If the file system does not wait by itself, and others hold the lock for a minute.
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
    """Warn once that there are no locks, on stderr or in the log of the program that uses this library."""
    logging.getLogger(__name__).warning(
        "warning: the file system has no locks (%s): make sure that no second process uses the same folder", reason
    )
