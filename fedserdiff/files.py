"""Write a file whole or not at all, whatever ends the process or the machine."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


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
        Where it cannot be written; the file is then as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as opened:
            write(opened)
            opened.flush()
            os.fsync(opened.fileno())
        if keep_as is not None and file.exists():
            file.replace(keep_as)
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong is told, not that it left a trace
            partial.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """See that a name in a folder outlives a power cut, not only what is in the file.

    Raises
    ------
    OSError
        Where the disk fails.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
