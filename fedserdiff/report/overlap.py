"""Sentences about duplicate and unusable cases, made from a run's ``results.json``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedserdiff.data.cases import SkippedCase

_MOST_TOLD = 20  # skipped cases, one line each
_HELD_OUT = {"validation": "validated", "test": "tested"}


def leak_warning(overlap: Mapping[str, Any] | None) -> str | None:
    """Return the warning on a leaking run's results, or None if nothing leaks or nothing is known."""
    if overlap is None or not overlap["leaks"]:
        return None
    if not overlap["kept"]:  # a deployment that allows overlap does not search for it
        return "Leaking: no search for patients who are at several sites was made, so scores may be too good"
    what, are = _cases(overlap["kept"])
    return f"Leaking: {what} {are} of patients who are in the federation already, so scores are too good"


def left_out_note(overlap: Mapping[str, Any] | None) -> str | None:
    """Return a sentence on the cases left out, or None if there are none or nothing is known."""
    if overlap is None or not overlap["left_out"]:
        return None
    what, _ = _cases(overlap["left_out"])
    return f"Left out: {what} of patients who are in the federation already"


def skipped_notes(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each of the first 20 cases in a run's ``skipped`` and a total, or nothing if it is empty."""
    cases = [SkippedCase(**case) for case in skipped]
    return [*(f"Skipped {case}" for case in cases[:_MOST_TOLD]), skipped_note(cases)] if cases else []


def skipped_note(skipped: Sequence[SkippedCase]) -> str:
    """Return a sentence with the number of skipped cases."""
    roles = Counter(case.role for case in skipped)
    held_out = [f"{roles[side]} of them to be {use} on" for side, use in _HELD_OUT.items() if roles[side]]
    fewer = f", {' and '.join(held_out)}, so scores are of fewer patients" if held_out else ""
    return f"Skipped: {len(skipped)} case{'s' if len(skipped) > 1 else ''} that cannot be used{fewer}"


def _cases(counts: Mapping[str, int]) -> tuple[str, str]:
    total = sum(counts.values())
    by_site = ", ".join(f"{count} of {site}" for site, count in counts.items())
    return (f"{total} cases ({by_site})", "are") if total != 1 else (f"1 case ({by_site})", "is")
