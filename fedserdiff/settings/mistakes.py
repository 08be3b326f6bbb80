"""What is said of a setting that is unknown, or whose value is not allowed."""

import difflib
from collections.abc import Collection, Mapping

from pydantic_core import ErrorDetails

_ALIKE = 0.75


def unknown(name: str, known: Collection[str]) -> str:
    """Say that a setting is unknown, and which of the `known` ones, by full name, have similar names."""
    alike = {one: _likeness(name, one) for one in known}
    close = sorted((one for one in alike if alike[one] > _ALIKE), key=lambda one: -alike[one])[:3]
    meant = f"did you mean {' or '.join(close)}?" if close else "fedserdiff settings lists all"
    return f"{name}: unknown setting: {meant}"


def not_of_method(name: str, method: str, own: Collection[str]) -> str:
    """Say that a method has no such setting, and that it has its `own`."""
    return f"{name}: {method} has no such setting: it has {', '.join(own) or 'none'}"


def in_words(fault: ErrorDetails, groups: Collection[str], ranges: Mapping[str, str], known: Collection[str]) -> str:
    """Say in one line what is wrong with a value: the setting, the value, and what it takes.

    Parameters
    ----------
    fault : ErrorDetails
        As pydantic reports it; its ``loc`` begins with the setting's group.
    groups : collection of str
        The names of all groups.
    ranges : mapping
        By full name, what a setting takes.
    known : collection of str
        Full names of all settings.
    """
    place = [str(part) for part in fault["loc"]]
    text = str(fault.get("ctx", {}).get("error", fault["msg"]))
    grouped = bool(place) and place[0] in groups and len(place) > 1
    name = ".".join(place[: 1 + grouped])
    if fault["type"] == "extra_forbidden":
        return unknown(name, known)
    if not place or place == ["method"] or text.startswith(f"{name}: "):  # the text names what it is about
        return text
    takes = text if fault["type"] == "value_error" else ranges.get(name, text)
    if isinstance(fault["loc"][-1], int) and fault["type"] != "missing":  # an item of a list
        return f"{name}: holds {fault['input']!r}: it takes {takes}"
    return f"{name}: {fault['input']!r} is not {takes}"


def _likeness(one: str, other: str) -> float:
    """Return from 0 to 1 how much two names have in common, with their groups or without."""
    pairs = ((one, other), (one.rpartition(".")[2], other.rpartition(".")[2]))
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
