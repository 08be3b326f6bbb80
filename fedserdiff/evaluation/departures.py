"""Notes on hospitals that left during a run."""

from collections.abc import Mapping, Sequence
from typing import Any


def departure_notes(departures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note for each of the ``departures`` of results.json."""
    return [_note(one) for one in departures]


def _note(one: Mapping[str, Any]) -> str:
    until = ", and its scores end there" if one["returns"] is None else f" until it returns in stage {one['returns']}"
    return (
        f"{one['site']} leaves as stage {one['stage']} begins. Students learned from its patients in "
        f"{_stages(one['trained'])}, and later students build on them; leaving does not undo that. Nothing else that "
        f"it shared is replayed any more. It keeps the student of stage {one['stage'] - 1}{until}."
    )


def _stages(numbers: Sequence[int]) -> str:
    return f"stage{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"
