"""Retention at the coordinator: rows of how well a student retains earlier hospitals, with alarms."""

import itertools
from collections.abc import Mapping

from flwr.app import RecordDict

from fedserdiff import wire
from fedserdiff.lesions.retention import after, before
from fedserdiff.methods.lesion_replay import LesionReplaySettings
from fedserdiff.settings.experiment import Settings

Retention = dict[str, str | int | float | bool]
"""A row: `stage`; `at`, the site that trained; `site`, the earlier one; `region`; Dice `before`, `after`; `alarm`."""


def retention_of(
    stage: int, watched: Mapping[int, str], accepted: Mapping[str, RecordDict], config: Settings
) -> list[Retention]:
    """Return a row for each site that answered, each earlier site `watched` (by number), and each region.

    A row is an alarm if Dice fell by more than the setting `alarm_drop`. There is no row for a region for which a site
    did not report both values.
    """
    rows: list[Retention] = []
    for at, content in accepted.items():
        told = content.metric_records[wire.METRICS]
        for (place, site), region in itertools.product(watched.items(), config.data.regions):
            was, now = (told.get(name(place, region)) for name in (before, after))
            if not isinstance(was, int) or not isinstance(now, int):
                continue
            alarm = was - now > round(100 * LesionReplaySettings.of(config.method).alarm_drop, 6)
            row: Retention = {"stage": stage, "at": at, "site": site, "region": region}
            rows.append(row | {"before": was / 100, "after": now / 100, "alarm": alarm})
    return rows
