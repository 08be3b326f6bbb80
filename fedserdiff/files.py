"""Write a file whole or not at all, whatever ends the process or the machine."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_NOT_OFFERED = frozenset(
    {
        errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EISDIR,
        errno.EBADF, errno.ENOTTY, errno.EROFS,
    }
)  # fmt: skip
"""What a file system answers that cannot see a file, or a folder, to the disk; a disk that fails answers others."""


def write_whole(
    file: Path, write: Callable[[BinaryIO], object], mode: int = 0o666, keep_as: Path | None = None
) -> None:
    """Let `write` fill a file that takes the place of `file` once it is safe on disk.

    Parameters
    ----------
    file : Path
        Its folder is made where it is not there. One process writes it at a time.
    write : callable
        Writes the content to an open file.
    mode : int
        Permissions of the file, which the account's umask narrows.
    keep_as : Path, optional
        The name under which the file that stood there is kept.

    Raises
    ------
    OSError
        If it cannot be written, naming `file` or its folder; the file is then as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as opened:
            write(opened)
            opened.flush()
            sync(opened.fileno())
        if keep_as is not None and file.exists():
            file.replace(keep_as)
        partial.replace(file)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong is told, not that it left a trace
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk names no file
            error.filename = str(file)
        raise
    sync_folder(file.parent)


def sync(descriptor: int) -> None:
    """See an open file to the disk, so that it outlives a power cut, where its file system offers that.

    Raises
    ------
    OSError
        If the disk fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def sync_folder(folder: Path) -> None:
    """See that a name in a folder outlives a power cut, not only what is in the file; as `sync`.

    Raises
    ------
    OSError
        If the disk fails, naming the folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        return
    try:
        sync(descriptor)
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        os.close(descriptor)
