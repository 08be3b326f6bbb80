"""Atomic writing of files: completely or not at all, even if the process or machine stops."""

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
"""Errors of file systems that cannot sync a file or folder; a failing disk raises others."""


def write_whole(
    file: Path, write: Callable[[BinaryIO], object], mode: int = 0o666, keep_as: Path | None = None
) -> None:
    """Let `write` fill a temporary file that replaces `file` once it is safely on disk.

    Parameters
    ----------
    file : Path
        File to write; its folder is created if it is missing. Only one process may write it at a time.
    write : callable
        Writes the content to an open file.
    mode : int
        Permissions of the file, reduced by the umask.
    keep_as : Path, optional
        Name under which to keep the previous file.

    Raises
    ------
    OSError
        If the file cannot be written. The error names `file` or its folder, and the previous file stays unchanged.
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
        with contextlib.suppress(OSError):  # report the original error, not a failed clean-up
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk's error names no file
            error.filename = str(file)
        raise
    sync_folder(file.parent)


def sync(descriptor: int) -> None:
    """Sync an open file to disk, so that it survives a power cut, if its file system supports that.

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
    """Sync a folder to disk, so that the names of its files survive a power cut too; as for `sync`.

    Raises
    ------
    OSError
        If the disk fails; the error names the folder.
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
