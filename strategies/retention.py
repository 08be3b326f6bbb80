"""What the coordinator makes of what hospitals say a student keeps of those before them: rows, some of them alarms."""

from collections.abc import Mapping

from flwr.app import RecordDict

from fedserdiff import wire
from fedserdiff.lesions.retention import after, before
from fedserdiff.methods.lesion_replay import LesionReplaySettings
from fedserdiff.settings.experiment import Settings

Retention = dict[str, str | int | float | bool]
"""A row: `stage`; `at`, the site that trained; `site`, the earlier one; Dice `before` and `after`; and `alarm`."""


def retention_of(
    stage: int, watched: Mapping[int, str], accepted: Mapping[str, RecordDict], config: Settings
) -> list[Retention]:
    """Return a row for each site that answered and each earlier one that is `watched`, by its place.

    A row is an alarm where Dice fell by more than the setting `alarm_drop`.
    """
    rows: list[Retention] = []
    for at, content in accepted.items():
        told = content.metric_records[wire.METRICS]
        for place, site in watched.items():
            was, now = (int(str(told[name(place)])) for name in (before, after))
            alarm = was - now > round(100 * LesionReplaySettings.of(config.method).alarm_drop, 6)
            row: Retention = {"stage": stage, "at": at, "site": site, "before": was / 100, "after": now / 100}
            rows.append(row | {"alarm": alarm})
    return rows
