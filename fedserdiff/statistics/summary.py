"""The coordinator's summary of hospitals' statistics: plain values for JSON, CSV and a page, with sentences."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedserdiff.origin import installed_versions
from fedserdiff.report.wording import in_capitals
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.cells import PATIENTS, QUANTITIES, SHARES, Quantity
from fedserdiff.statistics.disclosure import LEAST_PATIENTS
from fedserdiff.statistics.shifts import Shift, Told, beyond_chance, pooled, shifts_of
from fedserdiff.wire import COUNTS_ROUNDED_TO

COLUMNS = ("site", "quantity", "of", "low", "high", "value")
"""Columns of ``statistics.csv``: one row per cell, whose value is a number of patients or a share of voxels."""

_SEEN = 0.005  # smaller distances are shown as 0.00


def summarised(
    told: Told,
    refused: Mapping[str, str],
    bytes_out: Mapping[str, Mapping[str, int]],
    config: Settings,
    data: str,
) -> dict[str, Any]:
    """Return the contents of ``statistics.json``.

    Parameters
    ----------
    told : mapping
        Arrays of each site's answer.
    refused : mapping of str to str
        Reason why each other site reported nothing.
    bytes_out : mapping
        Bytes that left each site, by kind of record.
    config : Settings
        The experiment.
    data : str
        Name of the data, such as ``phantom``.

    Returns
    -------
    dict
        ``sites``: patients, and histograms by quantity and row (patients per cell, in multiples of 5, or shares of
        voxels); ``pooled``: all sites together, in shares; ``too_few`` and ``refused``; ``shifts``: each site's
        distances from all others; ``answer``: sentences; ``quantities``: with the cells' limits, null if there is none;
        ``bytes_out``.
    """
    counted = {site: one for site, one in told.items() if one[PATIENTS][0] > 0}
    too_few = [site for site in told if site not in counted]
    shifts = shifts_of(counted, config)
    far = beyond_chance(shifts)
    patients = {site: int(one[PATIENTS][0]) * COUNTS_ROUNDED_TO for site, one in counted.items()}
    return {
        "data": data,
        "profile": config.profile,
        "seed": config.seed,
        "least_patients": LEAST_PATIENTS,
        "rounded_to": COUNTS_ROUNDED_TO,
        "versions": installed_versions(config),
        "answer": _answer(list(counted), shifts, far) + _silent(too_few, refused),
        "quantities": [
            {
                "name": one.name,
                "title": one.title,
                "unit": one.unit,
                "counts": one.counts,
                "rows": list(one.rows(config)),
                "cells": [[low, None if math.isinf(high) else high] for low, high in one.cells],
            }
            for one in QUANTITIES
        ],
        "sites": {
            site: {
                PATIENTS: patients[site],
                **{one.name: _histograms(counted[site], one, config) for one in QUANTITIES},
            }
            for site in counted
        },
        "too_few": too_few,
        "refused": dict(refused),
        "bytes_out": {site: dict(kinds) for site, kinds in bytes_out.items()},
        "pooled": {
            PATIENTS: sum(patients.values()),
            **{
                one.name: {row: pooled(counted, one, number).tolist() for number, row in enumerate(one.rows(config))}
                for one in QUANTITIES
            },
        },
        "shifts": [
            {
                "site": shift.site,
                "quantity": shift.quantity.name,
                "row": shift.row,
                "distance": shift.distance,
                "by_chance": shift.by_chance,
                "beyond_chance": shift in far,
                "others": pooled(
                    counted, shift.quantity, shift.quantity.rows(config).index(shift.row), shift.site
                ).tolist(),
            }
            for shift in shifts
        ],
    }


def statistics_csv(summary: Mapping[str, Any]) -> bytes:
    """Return all reported figures as CSV with `COLUMNS`; `high` is empty for a cell without an upper limit."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for site, told in summary["sites"].items():
        writer.writerow([site, PATIENTS, "", "", "", told[PATIENTS]])
        for quantity in summary["quantities"]:
            for row in quantity["rows"]:
                for (low, high), value in zip(quantity["cells"], told[quantity["name"]][row], strict=True):
                    writer.writerow([site, quantity["name"], row, low, high, value])
    return text.getvalue().encode()


def _histograms(told: Mapping[str, Any], quantity: Quantity, config: Settings) -> dict[str, list[float]]:
    unit = COUNTS_ROUNDED_TO if quantity.counts else 1 / SHARES
    return {
        row: [round(int(value) * unit, 3) for value in cells]
        for row, cells in zip(quantity.rows(config), told[quantity.name], strict=True)
    }


def _answer(sites: Sequence[str], shifts: Sequence[Shift], far: Sequence[Shift]) -> list[str]:
    """Return sentences on which site differs most from the others, in what, and with what uncertainty."""
    if len(sites) < 2:
        return [
            f"Only {sites[0]} reported statistics: there is nothing to compare them with."
            if sites
            else "No hospital reported statistics: there is nothing to compare."
        ]
    counts, voxels = _greatest(far), _greatest([shift for shift in shifts if shift.by_chance is None])
    first = _greatest([shift for shift in (counts, voxels) if shift is not None])
    said = []
    if first is not None:
        both = f"{sites[0]} and {sites[1]} differ most"
        who = both if len(sites) == 2 else f"{first.site} differs most from the others"
        said.append(f"{who} {_what(first)}. A distance of 0 means equality, of 1 no cell in common.")
    if counts is None:
        said.append(
            "In counts of patients (tumour volumes, voxel sizes), no hospital differs from the others by more than "
            "chance can explain with so few patients."
        )
    elif counts is not first:
        said.append(f"In counts of patients, {_who(counts, sites)} {_what(counts)}.")
    if voxels is not None and voxels is not first:
        said.append(f"In intensities, {_who(voxels, sites)} {_what(voxels)}.")
    if voxels is not None:
        said.append("The role of chance in intensities is unknown: hospitals report only means over patients.")
    return said


def _silent(too_few: Sequence[str], refused: Mapping[str, str]) -> list[str]:
    few = f"Fewer than {LEAST_PATIENTS} training patients, so nothing else was reported: {', '.join(too_few)}."
    return ([few] if too_few else []) + [f"{site} reported nothing: it {why}." for site, why in refused.items()]


def _greatest(shifts: Sequence[Shift]) -> Shift | None:
    """Return the shift with the largest distance, if that is not shown as 0.00."""
    return max((shift for shift in shifts if shift.distance >= _SEEN), key=lambda shift: shift.distance, default=None)


def _who(shift: Shift, sites: Sequence[str]) -> str:
    return "they differ most" if len(sites) == 2 else f"{shift.site} differs most"


def _what(shift: Shift) -> str:
    in_what = f"in {shift.quantity.title} ({in_capitals(shift.row)}): Jensen–Shannon distance {shift.distance:.2f}"
    return in_what if shift.by_chance is None else f"{in_what}, which chance does not explain"
