"""Checks of the fields of a release's table."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SEG = "seg"
"""Suffix of a case's segmentation file."""

_MOST_LETTERS = 200
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TAKEN = ("msd",)  # reserved for datasets in the Decathlon's layout


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_LETTERS or not value.isprintable():
        raise ValueError(f"{value!r} is not a text of 1 to {_MOST_LETTERS} characters")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value) or value in _TAKEN:
        raise ValueError(f"{value!r} is not a name of 1 to 64 letters, digits, '-' and '_'")
    return value


def _part_of_a_file(value: Any) -> str:
    """Return a part of a file name after checking that it cannot leave the folder."""
    if "/" in _text(value):
        raise ValueError(f"{value!r} must not contain '/': it is part of a file name")
    return str(value)


def _pattern(value: Any) -> str:
    try:
        groups = re.compile(_text(value)).groupindex
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression ({error})") from None
    if "patient" not in groups:
        raise ValueError(f"{value!r} does not mark the patient: write (?P<patient>...) around its id")
    return str(value)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f'{value!r} is not a table of texts by name, such as {{ t1 = "t1n" }}')
    return {_text(name): _part_of_a_file(text) for name, text in value.items()}


def _suffixes(value: Any) -> dict[str, str]:
    suffixes = {_name(name): text for name, text in _texts(value).items()}
    if not suffixes or SEG in suffixes:
        raise ValueError(f"name at least one modality, and call none {SEG!r}")
    return suffixes


def _labels(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or not all(type(one) is int and 0 <= one < 2**16 for one in values):
        raise ValueError(f"{value!r} is not a label, or a list of labels, from 0 to {2**16 - 1}")
    return tuple(dict.fromkeys(values))


def _regions(value: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{value!r} is not a table of labels by region, such as {{ wt = [1, 2, 4] }}")
    regions = {_name(name): _labels(labels) for name, labels in value.items()}
    if any(0 in labels for labels in regions.values()):
        raise ValueError("0 is background and cannot belong to a region")
    return regions


def _grid(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, Sequence) or len(value) != 3 or not all(type(one) is int and one > 0 for one in value):
        raise ValueError(f"{value!r} is not a grid of three positive numbers of voxels")
    x, y, z = value
    return x, y, z


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "case_pattern": _pattern,
    "example": _text,
    "separator": _part_of_a_file,
    "modalities": _suffixes,
    "segmentation": _part_of_a_file,
    "regions": _regions,
    "labels": _labels,
    "grid": _grid,
    "seg_aliases": _texts,
}
"""Converter of each field, from the table's value to that of a `Release`; it raises `ValueError` for invalid values."""
