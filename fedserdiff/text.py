"""Text that people write and names that file systems hold, in whatever encoding: read, or named as what they are."""

import codecs
import csv
import io
import json
from pathlib import Path
from typing import Any, TextIO

from fedserdiff.errors import ConfigError

SPELT_OUT = "fedserdiff.spelt-out"
"""An error handler of encoders: a byte of a name that is no UTF-8 becomes ``\\xfc``, a letter that the encoding lacks
``\\u03bb``."""

_OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins as UTF-16 does, so it comes first
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAVE = "save it as text in UTF-8"


def read_text(file: Path) -> str:
    """Read a text file that a person wrote: UTF-8, with a byte order mark or without.

    Raises
    ------
    ConfigError
        If it is in another encoding; the text names it, or the first line that is not UTF-8, and what to do.
    OSError
        If it cannot be read.
    """
    content = file.read_bytes()
    for mark, name in _OTHERS:
        if content.startswith(mark):
            raise ConfigError(f"{file}: is text in {name}: {_SAVE}")
    if b"\0" in content:  # of UTF-16 every other byte of plain Latin letters
        raise ConfigError(f"{file}: holds null characters: it is text in UTF-16, or no text: {_SAVE}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}: line {line}: not text in UTF-8 (byte {content[error.start]:#04x}): {_SAVE}"
        ) from None


def read_json(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises
    ------
    ConfigError
        As for `read_text`, and if the file cannot be read or holds none.
    """
    try:
        values = json.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: {type(values).__name__} instead of an object")
    return values


def read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """Read a CSV table: the number of a row's last line, and its cells without blanks about them.

    Cells are separated by commas, semicolons or tabs, whichever the first line has most of (our choice: spreadsheets
    write all three).

    Raises
    ------
    ConfigError
        As for `read_text`, and if the file cannot be read or is no CSV.
    """
    try:
        text = read_text(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    first_line = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count), strict=True)
    try:
        return [(rows.line_num, [cell.strip() for cell in row]) for row in rows]
    except csv.Error as error:
        raise ConfigError(f"{file}: line {rows.line_num}: not a CSV table: {error}") from None


def readable(name: str) -> str:
    """Return a name as it can be shown and written: bytes that are no UTF-8, which Linux allows in names, spelt out."""
    return name.encode("utf-8", SPELT_OUT).decode()


def spell_out(stream: TextIO) -> None:
    """Let a stream print any name and letter, whatever its encoding: what that lacks is spelt out."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=SPELT_OUT)


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_spelt, letters)), error.end


def _spelt(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # what os.fsdecode makes of a byte
        return f"\\x{number - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(SPELT_OUT, _spell_out)
