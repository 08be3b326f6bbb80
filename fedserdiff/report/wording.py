"""Names and facts as sentences of tables and pages have them."""

from collections.abc import Mapping
from typing import Any


def data_in_words(data: Mapping[str, Any]) -> str:
    """Return a comparison's ``data`` in words, with the stream if they are phantoms."""
    return f"{data['name']} data" + (f" of the stream {data['stream']}" if data.get("stream") else "")


def in_capitals(name: str) -> str:
    """Return a region's or modality's usual spelling: ``wt`` as WT, longer words unchanged."""
    return name.upper() if len(name) <= 2 or name == "flair" else name


def begin_sentence(text: str) -> str:
    """Return a text with its first letter in upper case, unless it starts with a file name, which stays as it is."""
    return text if "." in text.partition(" ")[0] else text[:1].upper() + text[1:]
