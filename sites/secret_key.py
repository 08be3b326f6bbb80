"""Secret keys that a hospital's machine generates and keeps."""

import secrets
from pathlib import Path

from fedserdiff.errors import DataError
from fedserdiff.files import write_whole

KEY_BYTES = 32


def secret_key(file: Path) -> bytes:
    """Return the key in a file; if there is none, generate it from the operating system's random source.

    Only the file's owner can read it.

    Raises
    ------
    DataError
        If the file is damaged: a value made with half a key could be guessed.
    """
    if not file.is_file():
        drawn = secrets.token_bytes(KEY_BYTES)
        write_whole(file, lambda opened: opened.write(drawn), 0o600)
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(f"{file}: damaged: it does not have {KEY_BYTES} bytes; remove it and a new key is generated")
    return key
