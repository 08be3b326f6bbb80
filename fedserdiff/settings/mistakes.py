"""Messages about unknown settings and values that are not allowed."""

import difflib
from collections.abc import Collection, Mapping

from pydantic_core import ErrorDetails

_ALIKE = 0.75


def unknown(name: str, known: Collection[str]) -> str:
    """Return the message for an unknown setting, with those of the `known` full names that are similar."""
    alike = {one: _likeness(name, one) for one in known}
    close = sorted((one for one in alike if alike[one] > _ALIKE), key=lambda one: -alike[one])[:3]
    meant = f"did you mean {' or '.join(close)}?" if close else "fedserdiff settings lists them all"
    return f"{name}: unknown setting: {meant}"


def not_of_method(name: str, method: str, own: Collection[str]) -> str:
    """Return the message for a setting that the method does not have, with those of its `own`."""
    return f"{name}: {method} has no such setting; its settings are: {', '.join(own) or 'none'}"


def in_words(fault: ErrorDetails, groups: Collection[str], ranges: Mapping[str, str], known: Collection[str]) -> str:
    """Return a one-line message for a wrong value: the setting, the value, and what is allowed.

    Parameters
    ----------
    fault : ErrorDetails
        As pydantic reports it; its ``loc`` begins with the setting's group.
    groups : collection of str
        The names of all groups.
    ranges : mapping
        The allowed values of settings in words, by full name.
    known : collection of str
        Full names of all settings.
    """
    place = [str(part) for part in fault["loc"]]
    text = str(fault.get("ctx", {}).get("error", fault["msg"]))
    grouped = bool(place) and place[0] in groups and len(place) > 1
    name = ".".join(place[: 1 + grouped])
    if fault["type"] == "extra_forbidden":
        return unknown(name, known)
    if not place or place == ["method"] or text.startswith(f"{name}: "):  # the text already names the settings
        return text
    takes = text if fault["type"] == "value_error" else ranges.get(name, text)
    if isinstance(fault["loc"][-1], int) and fault["type"] != "missing":  # an item of a list
        return f"{name}: contains {fault['input']!r}; it must be {takes}"
    return f"{name}: {fault['input']!r} is not {takes}"


def _likeness(one: str, other: str) -> float:
    """Return the similarity of two names, from 0 to 1: the larger of that with and that without their groups."""
    pairs = ((one, other), (one.rpartition(".")[2], other.rpartition(".")[2]))
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
