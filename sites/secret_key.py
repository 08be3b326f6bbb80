"""Secrets that a hospital's machine draws for itself, and keeps."""

import secrets
from pathlib import Path

from fedserdiff.errors import DataError
from fedserdiff.files import write_whole

KEY_BYTES = 32


def secret_key(file: Path) -> bytes:
    """Return the key in a file, drawn by the operating system where there is none: unpredictable on purpose.

    Its owner alone can read it.

    Raises
    ------
    DataError
        If the file is damaged: what is made of half a key could be guessed.
    """
    if not file.is_file():
        drawn = secrets.token_bytes(KEY_BYTES)
        write_whole(file, lambda opened: opened.write(drawn), 0o600)
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(f"{file}: damaged: not {KEY_BYTES} bytes; without it another is drawn")
    return key
