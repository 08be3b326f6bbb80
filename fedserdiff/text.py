"""Text files that people write, and file names, in any encoding: read, or refused with a clear message."""

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from fedserdiff.errors import ConfigError

SPELT_OUT = "fedserdiff.spelt-out"
"""Error handler for encoders: a byte of a name that is not UTF-8 becomes ``\\xfc``, a character that the encoding lacks
becomes ``\\u03bb``."""

_OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # starts like UTF-16, so it comes first
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
        If the file has another encoding. The message names it, or the first line that is not UTF-8, and what to do.
    OSError
        If the file cannot be read.
    """
    content = file.read_bytes()
    for mark, name in _OTHERS:
        if content.startswith(mark):
            raise ConfigError(f"{file}: is text in {name}: {_SAVE}")
    if b"\0" in content:  # in UTF-16, every other byte of plain Latin letters is null
        raise ConfigError(f"{file}: holds null characters: it is text in UTF-16, or not text: {_SAVE}")
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
        As for `read_text`, and if the file cannot be read or does not hold a JSON object.
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
    """Read a CSV table; return the last line number of each row, and its cells without surrounding blanks.

    Cells are separated by commas, semicolons or tabs: the one that is most frequent in the first line (our choice:
    spreadsheets write all three).

    Raises
    ------
    ConfigError
        As for `read_text`, and if the file cannot be read or is not a CSV table.
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


def first_few(names: Sequence[str], most: int, between: str = ", ") -> str:
    """Return at most `most` names in one sentence, and how many more there are: "a, b and 3 more"."""
    more = len(names) - most
    return between.join(names[:most]) + (f" and {more} more" if more > 0 else "")


def readable(name: str) -> str:
    """Return a name that can be displayed; bytes that are not UTF-8, which Linux allows in names, are escaped."""
    return name.encode("utf-8", SPELT_OUT).decode()


def spell_out(stream: TextIO) -> None:
    """Let a stream print any text; characters that its encoding lacks are escaped."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=SPELT_OUT)


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_spelt, letters)), error.end


def _spelt(letter: str) -> str:
    number = ord(letter)
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as os.fsdecode represents it
        return f"\\x{number - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(SPELT_OUT, _spell_out)
