"""Page of hospitals' statistics: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedserdiff.report.page import template
from fedserdiff.report.wording import begin_sentence, in_capitals

_HEIGHT = 36
_WIDTH = 112  # size of a histogram in CSS pixels
_NOTHING = "–"


def render_statistics(summary: Mapping[str, Any]) -> str:
    """Return the page for a result of `fedserdiff.statistics.summary.summarised`; equal input gives equal text."""
    shifts = {(one["site"], one["quantity"], one["row"]): one for one in summary["shifts"]}
    sites, refused, too_few = summary["sites"], summary["refused"], summary["too_few"]
    return (
        template("statistics.html")
        .render(
            summary=summary,
            facts=_facts(summary),
            regions=[in_capitals(row) for row in _quantity(summary, "volumes")["rows"]],
            hospitals=[_hospital(summary, site) for site in sites],
            silent=[(site, f"fewer than {summary['least_patients']} training patients") for site in too_few]
            + [(site, f"no statistics: it {why}") for site, why in refused.items()],
            sections=[_section(summary, quantity, shifts) for quantity in summary["quantities"]] if sites else [],
        )
        .lstrip()
    )


def _facts(summary: Mapping[str, Any]) -> str:
    asked = len(summary["sites"]) + len(summary["too_few"]) + len(summary["refused"])
    hospitals = f"{asked} hospital{'' if asked == 1 else 's'}"
    return (
        f"{summary['data'][:1].upper()}{summary['data'][1:]} data, profile {summary['profile']}, {hospitals}, about "
        f"{summary['pooled']['patients']} training patients, seed {summary['seed']}"
    )


def _quantity(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(one for one in summary["quantities"] if one["name"] == name)
    return found


def _hospital(summary: Mapping[str, Any], site: str) -> dict[str, Any]:
    """Return a site's table row: patients, patients with each region, and the quantity that differs most."""
    told = summary["sites"][site]
    volumes = [told["volumes"][row] for row in _quantity(summary, "volumes")["rows"]]
    titles = {one["name"]: one["title"] for one in summary["quantities"]}
    own = [shift for shift in summary["shifts"] if shift["site"] == site and _stands(shift)]
    most = max(own, key=lambda shift: shift["distance"], default=None)
    return {
        "site": site,
        "patients": told["patients"],
        "showing": [f"{sum(cells[1:]):g}" if sum(cells) else _NOTHING for cells in volumes],
        "most": _NOTHING if most is None else f"{titles[most['quantity']]} ({in_capitals(most['row'])})",
        "distance": _NOTHING if most is None else f"{most['distance']:.2f}",
    }


def _section(
    summary: Mapping[str, Any], quantity: Mapping[str, Any], shifts: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a quantity's histograms: a row for each site, a column for each region, modality or voxel side."""
    name, rows = quantity["name"], quantity["rows"]
    labels = [_label(low, high) for low, high in quantity["cells"]]
    whole = {row: _shares(summary["pooled"][name][row]) for row in rows}
    by_site = {site: {row: _shares(told[name][row]) for row in rows} for site, told in summary["sites"].items()}
    tops = {row: max([*whole[row], *(value for one in by_site.values() for value in one[row]), 1e-9]) for row in rows}
    return {
        "name": name,
        "title": begin_sentence(quantity["title"]),
        "counts": quantity["counts"],
        "columns": [in_capitals(row) for row in rows],
        "axis": _axis(quantity, labels),
        "pooled": [_drawn(whole[row], None, tops[row], labels, None) for row in rows],
        "sites": [
            (site, [_drawn(one[row], shifts.get((site, name, row)), tops[row], labels, site) for row in rows])
            for site, one in by_site.items()
        ],
    }


def _axis(quantity: Mapping[str, Any], labels: Sequence[str]) -> str:
    if quantity["counts"]:
        cells = f"{', '.join(labels)} {quantity['unit']}"
        return f"Bars from left to right: {cells}. Their height is the share of patients."
    low, high = quantity["cells"][0][0], quantity["cells"][-1][1]
    width = quantity["cells"][0][1] - low
    return (
        f"Bars from left to right: {low:g} to {high:g} standard deviations from the brain's mean, each {width:g} wide. "
        "Their height is the share of voxels, mean over patients."
    ).replace("-", "−")


def _label(low: float, high: float | None) -> str:
    if high is None:
        return f"over {low:g}"
    return "none" if low == high else f"{low:g} to {high:g}"


def _shares(cells: Sequence[float]) -> list[float]:
    whole = sum(cells)
    return [value / whole if whole else 0.0 for value in cells]


def _drawn(
    shares: Sequence[float], shift: Mapping[str, Any] | None, top: float, labels: Sequence[str], site: str | None
) -> dict[str, Any]:
    """Return a histogram as SVG paths, its description in words and its distance; empty if it was not reported."""
    told = any(shares)
    words = "; ".join(f"{label}: {100 * share:.0f} %" for label, share in zip(labels, shares, strict=True) if share)
    return {
        "told": told,
        "bars": _bars(shares, top),
        "line": "" if shift is None else _line(_shares(shift["others"]), top),
        "words": words.replace("-", "−") if told else "",
        "distance": "" if shift is None else f"{shift['distance']:.2f}",
        "tint": 0 if shift is None or not _stands(shift) else round(60 * min(shift["distance"], 1)),
        "beyond": shift is not None and shift["beyond_chance"],
    }


def _stands(shift: Mapping[str, Any]) -> bool:
    """Return whether a distance is beyond chance, or cannot be tested for it, as with intensities."""
    return bool(shift["beyond_chance"] or shift["by_chance"] is None)


def _bars(shares: Sequence[float], top: float) -> str:
    wide = _WIDTH / len(shares)
    return "".join(
        f"M{place * wide:.1f} {_HEIGHT}V{_up(share, top)}H{(place + 1) * wide - 1:.1f}V{_HEIGHT}Z"
        for place, share in enumerate(shares)
        if share
    )


def _line(shares: Sequence[float], top: float) -> str:
    wide = _WIDTH / len(shares)
    steps = "".join(f"V{_up(share, top)}H{(place + 1) * wide - 0.5:.1f}" for place, share in enumerate(shares))
    return f"M0 {_HEIGHT}{steps}V{_HEIGHT}"


def _up(share: float, top: float) -> str:
    """Return a bar's distance from the upper edge of the picture; the line of the others may exceed the picture."""
    return f"{_HEIGHT * (1 - min(share / top, 1)):.1f}"
