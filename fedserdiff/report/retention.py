"""What a report says where a student has forgotten an earlier hospital's lesions."""

from collections.abc import Mapping
from typing import Any


def alarm(row: Mapping[str, Any]) -> str:
    """Return a warning of a row of ``retention`` in ``results.json``, and what to do."""
    stage = row["stage"]
    return (
        f"stage {stage} at {row['at']} may have cost the student {row['site']}'s patients: of {row['site']}'s lesions, "
        f"painted, Dice is {100 * row['after']:.0f} %, before it {100 * row['before']:.0f} %. Deploy "
        f"student-of-stage-{stage - 1}.pt, or train anew with more method.painted_share or aggregation.inertia"
    )
