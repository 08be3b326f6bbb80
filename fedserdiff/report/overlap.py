"""What a report says of cases that are in a federation twice, or cannot be used, from a run's ``results.json``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedserdiff.data.cases import SkippedCase

_MOST_TOLD = 20  # skipped cases, a line each
_HELD_OUT = {"validation": "validated", "test": "tested"}


def leak_warning(overlap: Mapping[str, Any] | None) -> str | None:
    """Return the sentence that stamps a leaking run's results; None where nothing leaks, or nothing is known."""
    if overlap is None or not overlap["leaks"]:
        return None
    if not overlap["kept"]:  # a deployment that allows overlap asks nobody
        return "Leaking: nobody looked for patients who are at several sites: scores may be too good"
    what, are = _cases(overlap["kept"])
    return f"Leaking: {what} {are} of patients who are in the federation already: scores are too good"


def left_out_note(overlap: Mapping[str, Any] | None) -> str | None:
    """Return a sentence on what was left out; None where nothing was, or nothing is known."""
    if overlap is None or not overlap["left_out"]:
        return None
    what, _ = _cases(overlap["left_out"])
    return f"Left out: {what} of patients who are in the federation already"


def skipped_notes(skipped: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return, of a run's ``skipped``, a line for each of the first 20 cases, and one on all; none of none."""
    cases = [SkippedCase(**case) for case in skipped]
    return [*(f"Skipped {case}" for case in cases[:_MOST_TOLD]), skipped_note(cases)] if cases else []


def skipped_note(skipped: Sequence[SkippedCase]) -> str:
    """Return a sentence on how many cases were skipped."""
    roles = Counter(case.role for case in skipped)
    held_out = [f"{roles[side]} of them to be {use} on" for side, use in _HELD_OUT.items() if roles[side]]
    fewer = f", {' and '.join(held_out)}: scores are of fewer patients" if held_out else ""
    return f"Skipped: {len(skipped)} case{'s' if len(skipped) > 1 else ''} that cannot be used{fewer}"


def _cases(counts: Mapping[str, int]) -> tuple[str, str]:
    total = sum(counts.values())
    by_site = ", ".join(f"{count} of {site}" for site, count in counts.items())
    return (f"{total} cases ({by_site})", "are") if total != 1 else (f"1 case ({by_site})", "is")
