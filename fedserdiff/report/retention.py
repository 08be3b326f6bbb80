"""Warnings about a student that has forgotten an earlier hospital's lesions."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fedserdiff.report.wording import in_capitals


def alarms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning with advice for each stage, site and earlier site in ``retention`` of ``results.json``."""
    warning = [row for row in rows if row["alarm"]]
    found = itertools.groupby(warning, lambda row: (row["stage"], row["at"], row["site"]))
    return [_alarm(*of, list(regions)) for of, regions in found]


def run_notes(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a comparison's notes on its runs' alarms and notes, from each run's ``results.json`` by its name."""
    told = {name: [*alarms(results["retention"]), *results["notes"]] for name, results in runs.items()}
    return [f"{name}: {text}." for name, texts in told.items() for text in texts]


def _alarm(stage: int, at: str, site: str, regions: Sequence[Mapping[str, Any]]) -> str:
    dice = ", ".join(f"{in_capitals(r['region'])} {100 * r['before']:.0f} → {100 * r['after']:.0f}" for r in regions)
    return (
        f"stage {stage} at {at} may have made the student forget {site}'s patients: Dice % on their painted lesions "
        f"{dice}. Deploy student-of-stage-{stage - 1}.pt, or train again with more method.painted_share or "
        "aggregation.inertia"
    )
