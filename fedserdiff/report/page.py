"""Page for a comparison of methods and for studies: one self-contained HTML file."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from fedserdiff.comparison.verdicts import said
from fedserdiff.methods import METHODS
from fedserdiff.methods.method import GroupName
from fedserdiff.report.charts import (
    dice_across_stages,
    heat_maps,
    png_uri,
    study_plot,
    svg,
    utility_against_bytes,
    validation_curves,
)
from fedserdiff.report.wording import begin_sentence, data_in_words, in_capitals

_NOTHING = "–"
_SHEET = 9.5  # largest height of a picture in inches
_WORDS = 24  # a cell with a longer text is left-aligned as words
_KINDS = ("raw-scans", "arrays", "error-maps", "metrics", "scan-hashes", "site")  # others follow by name
_STREAM_SCORES = (("bwt", "BWT"), ("fwt", "FWT"), ("forgetting", "Forgetting"))
_SIDES = ("training", "validation", "test")  # splits of a site's cases
_GROUPS: Mapping[GroupName, str] = {
    "alone": "Alone: each hospital by itself",
    "together": "Together: all hospitals train from the start",
    "in-turn": "In turn: hospitals arrive one after another",
    "raw-data": "With raw scans of other hospitals",
}
_BADGE = Markup('<span class="badge">breaks privacy</span>')


def render_page(
    comparison: Mapping[str, Any] | None,
    studies: Sequence[Mapping[str, Any]],
    cases: bytes | None,
    volumes: str | None = None,
) -> str:
    """Return the page as HTML; equal input gives equal text.

    Parameters
    ----------
    comparison : mapping or None
        Data, methods with their scores, the answer's sentences, notes and versions; None if only studies ran.
    studies : sequence of mapping
        For each study: title, question, data, columns, rows, plot and sentences.
    cases : bytes or None
        A PNG picture of example cases.
    volumes : str, optional
        Name of a file in the same folder that shows the same cases slice by slice.
    """
    mark = _Marker(comparison["methods"] if comparison else [])
    picture = None
    if cases is not None:
        about = f"{_facts(comparison)}." if comparison else "The picture's title names the data."
        kind = f"{begin_sentence(comparison['scored'])} cases" if comparison else "Cases"
        caption = f"{kind} as examples: the scan, the truth and the predicted masks. {about}"
        picture = _figure(png_uri(cases), "Example cases: scan, truth and predicted masks, side by side.", caption)
    # a page must begin with its doctype
    return (
        template("comparison.html")
        .render(
            comparison=None if comparison is None else _comparison_view(comparison, mark),
            studies=[_study_view(study, mark) for study in studies],
            cases=picture,
            volumes=volumes,
        )
        .lstrip()
    )


def template(name: str) -> Template:
    """Return one of the report's templates; inserted values are escaped."""
    environment = Environment(
        loader=PackageLoader("fedserdiff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


class _Marker:
    """A function that puts a badge beside the name of each method that breaks privacy."""

    def __init__(self, methods: Sequence[Mapping[str, Any]]) -> None:
        known = {name: method.breaks_privacy for name, method in METHODS.items()}
        known |= {method["name"]: method["breaks_privacy"] for method in methods}
        names = sorted((re.escape(name) for name, breaks in known.items() if breaks), key=lambda n: (-len(n), n))
        self._pattern = re.compile(rf"(?<![\w-])({'|'.join(names)})(?![\w-])" if names else r"(?!)")

    def __call__(self, text: str) -> Markup:
        """Return `text` escaped, with a badge after each of these names."""
        parts = self._pattern.split(text)
        marked = (escape(part) + (Markup(" ") + _BADGE if place % 2 else "") for place, part in enumerate(parts))
        return Markup("").join(marked)


def _comparison_view(comparison: Mapping[str, Any], mark: _Marker) -> dict[str, Any]:
    data, groups = comparison["data"], _grouped(comparison["methods"])
    methods = [method for _, of_group in groups for method in of_group]
    regions = list(methods[0]["dice_by_region"]) if methods else []
    sides = [side for side in _SIDES if any(side in data["cases"][site] for site in data["sites"])]
    releases = data["releases"] if len(data["releases"]) == len(data["sites"]) else []
    views = [
        (title, [_method_view(method, regions, data["sites"], mark) for method in of_group])
        for title, of_group in groups
    ]
    return {
        "data": data,
        "leak": data.get("leak"),
        "kept": data.get("kept", []),
        "facts": _facts(comparison),
        "sides": list(map(begin_sentence, sides)),
        "cases": [
            (site, release, [data["cases"][site].get(side, 0) for side in sides])
            for site, release in zip(data["sites"], releases or [None] * len(data["sites"]), strict=True)
        ],
        "by_release": bool(releases),
        "answer": comparison["answer"],
        "verdicts": [one["text"] for one in comparison.get("verdicts", ())],
        "rule": comparison.get("rule", ""),
        "notes": comparison["notes"],
        "versions": comparison["versions"].items(),
        "regions": [in_capitals(region) for region in regions],
        "groups": views,
        "site_tables": (("site_dice", "Dice %"), ("site_hd95", "HD95 mm")),
        "figures": _figures(comparison, methods) if methods else {},
    }


def _grouped(methods: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the methods by group, each group with a title."""
    groups = ((title, [m for m in methods if m["group"] == name]) for name, title in _GROUPS.items())
    return [(title, found) for title, found in groups if found]


def _method_view(
    method: Mapping[str, Any], regions: Sequence[str], sites: Sequence[str], mark: _Marker
) -> dict[str, Any]:
    scores, sent, per_site = method["scores"], method["bytes_out"], method["per_site"]
    fairness = method["fairness"]
    return {
        "name": mark(method["name"]),
        "summary": method["summary"],
        "dice": _interval(scores["dice"], 100),
        "known_origin": _interval(known, 100) if (known := scores["known_origin"]) else None,
        "hd95": _interval(scores["hd95"], 1),
        "stream": [_interval(scores[key], 100, signed=True) for key, _ in _STREAM_SCORES],
        "worst_site": fairness["worst_site"],
        "worst": _interval(fairness["worst"], 100),
        "spread": _interval(fairness["spread"], 100),
        "regions": [_interval(method["dice_by_region"][region], 100) for region in regions],
        "needs": "; ".join(method["needs"]) or "nothing",
        "sent": [f"{kind} {_bytes(sent[kind])}" for kind in _kinds(sent)],
        "total": _bytes(sum(sent.values())),
        "minutes": _number(method["minutes"]),
        "site_dice": [_number(per_site["dice"][site], 100) for site in sites],
        "site_hd95": [_number(per_site["hd95"][site]) for site in sites],
    }


def _kinds(sent: Mapping[str, float]) -> list[str]:
    return [kind for kind in _KINDS if kind in sent] + sorted(set(sent).difference(_KINDS))


def _facts(comparison: Mapping[str, Any]) -> str:
    """Return the sentence on data, seeds and cases that stands under every figure."""
    data, scored = comparison["data"], comparison["scored"]
    cases = [data["cases"][site][scored] for site in data["sites"]]
    counts = " + ".join(map(str, cases)) + (f" = {sum(cases)}" if len(cases) > 1 else "")
    word = "seed" if len(data["seeds"]) == 1 else "seeds"
    seeds = ", ".join(map(str, data["seeds"]))
    places = f"{len(cases)} site{'s' if len(cases) > 1 else ''}"
    facts = f"{data_in_words(data)}, profile {data['profile']}, {places}, {counts} {scored} cases, {word} {seeds}"
    return begin_sentence(facts if data.get("leak") is None else f"{facts}, leaking into the {scored} set")


def _figures(comparison: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    data = comparison["data"]
    facts = f"{_facts(comparison)}." + (" Means over seeds." if len(data["seeds"]) > 1 else "")
    ends = "; ".join(
        f"{method['name']} {_number(method['scores']['dice']['value'], 100)} % at "
        f"{_bytes(sum(method['bytes_out'].values()))}"
        for method in methods
    )
    sent = _figure(
        svg(utility_against_bytes(methods)),
        f"Final mean Dice against bytes that left the hospitals: {ends}.",
        "Final mean Dice over sites, with 95 % intervals, against the data that left the hospitals in a run. Marks "
        "with nearly the same number of bytes are drawn side by side. Hollow marks: methods that move raw scans, "
        f"which breaks privacy. {facts}",
    )
    # more than the untrained student and one stage
    staged = [method for method in methods if len(method["stages"]) > 2]
    return {
        "heat": _heat_maps(data["sites"], staged, facts),
        "stages": [_across_stages(data["sites"], methods, facts)] if staged else [],
        "curves": _curves(data, methods),
        "bytes": [sent],
    }


def _across_stages(sites: Sequence[str], methods: Sequence[Mapping[str, Any]], facts: str) -> dict[str, str]:
    return _figure(
        svg(dice_across_stages(methods, sites)),
        f"Dice of each site ({', '.join(sites)}) after each stage, one line for each method; the heat maps show the "
        "values.",
        "Dice % of each site across the stages. The dotted line marks the stage at which the site arrives. A dashed "
        f"line is the final value of a method with a single stage. {facts}",
    )


def _curves(data: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the chart of validation during training, if there was any; it contains no test patient."""
    found = [(method["name"], curve) for method in methods for curve in method["curves"]]
    if not found:
        return []
    best = "; ".join(
        f"{name} {_number(max(curve['dice']), 100)} % at {curve['site']}, stage {curve['stage']}, seed {curve['seed']}"
        for name, curve in found
    )
    counts = " + ".join(str(data["cases"][site].get("validation", 0)) for site in data["sites"])
    picture = _figure(
        svg(validation_curves(methods, data["sites"])),
        f"Dice on validation cases by training step; the best: {best}.",
        "Refined Dice % on each hospital's own validation cases during training, mean over regions, one line for "
        f"each seed; a marker shows the best value of each line. {begin_sentence(data['name'])} data, profile "
        f"{data['profile']}, {counts} validation cases, seed{'' if len(data['seeds']) == 1 else 's'} "
        f"{', '.join(map(str, data['seeds']))}.",
    )
    return [picture]


def _heat_maps(sites: Sequence[str], methods: Sequence[Mapping[str, Any]], facts: str) -> list[dict[str, str]]:
    """Return R in as many figures as needed for each to fit on a sheet of paper with readable text."""
    size = max(len(methods), 1)
    while size > 1 and heat_maps(methods[:size], sites).get_figheight() > _SHEET:
        size = -(-size // 2)
    numbers = ", ".join(f"{place} {site}" for place, site in enumerate(sites, 1))
    parts = [methods[start : start + size] for start in range(0, len(methods), size)]
    return [
        _figure(
            svg(heat_maps(part, sites)),
            f"Heat maps of R, one for each method ({', '.join(m['name'] for m in part)}), with the values in their "
            "cells.",
            f"R{f' ({number} of {len(parts)})' if len(parts) > 1 else ''}: Dice % on each site (column) after each "
            "stage (row); one colour scale, 0 to 100 %. Frames mark the student that the site uses at the end. Sites "
            f"in order of arrival: {numbers}. {facts}",
        )
        for number, part in enumerate(parts, 1)
    ]


def _study_view(study: Mapping[str, Any], mark: _Marker) -> dict[str, Any]:
    plot = study["plot"]
    series = (
        f"{one['label']}: " + ", ".join(f"{_cell(y)} at {x}" for x, y in zip(one["x"], one["y"], strict=True))
        for one in plot["series"]
    )
    alt = f"{plot['y_label']} against {plot['x_label']}. {'; '.join(series)}."
    wordy = [
        any(isinstance(cell, str) and len(cell) > _WORDS for cell in column)
        for column in zip(*study["rows"], strict=True)
    ]
    classes = ["text" if words or not place else "number" for place, words in enumerate(wordy)]
    classes += ["number"] * (len(study["columns"]) - len(classes))  # for a table without rows
    return {
        "name": study["name"],
        "title": study["title"],
        "question": study["question"],
        "leak": study.get("leak"),
        "data": f"{begin_sentence(study['data'])}.",
        "columns": [(mark(column), kind) for column, kind in zip(study["columns"], classes, strict=True)],
        "rows": [
            [
                (mark(cell) if isinstance(cell, str) else _cell(cell), kind)
                for cell, kind in zip(row, classes, strict=True)
            ]
            for row in study["rows"]
        ],
        "figure": _figure(svg(study_plot(plot)), alt, f"{study['title']}. {begin_sentence(study['data'])}."),
        "sentences": said(study["sentences"], study),
    }


def _figure(source: str, alt: str, caption: str) -> dict[str, str]:
    return {"source": source, "alt": alt, "caption": caption}


def _cell(value: object) -> str:
    """Return a study's value as text: integers unchanged, other numbers with one decimal."""
    if isinstance(value, float):
        return _number(value)
    return _NOTHING if value is None else str(value).replace("-", "−") if isinstance(value, int) else str(value)


def _number(value: float | None, scale: float = 1, signed: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return _NOTHING
    rounded = round(scale * value, 1) + 0.0  # no negative zero
    return f"{rounded:+,.1f}".replace("-", "−") if signed and rounded else f"{rounded:,.1f}".replace("-", "−")


def _interval(score: Mapping[str, float | None] | None, scale: float, signed: bool = False) -> tuple[str, str]:
    """Return a score and its interval, each as text; the interval is empty if there is none."""
    if score is None or score["value"] is None:
        return _NOTHING, ""
    value, low, high = (_number(score[key], scale, signed) for key in ("value", "low", "high"))
    return value, "" if score["low"] is None or score["high"] is None else f"[{low}, {high}]"


def _bytes(count: float) -> str:
    """Return a number of bytes in readable form, in powers of 1000."""
    amount, unit, decimals = float(count), "B", 0
    for larger in ("kB", "MB", "GB"):
        if round(amount, decimals) < 1000:
            break
        amount, unit, decimals = amount / 1000, larger, 1
    return f"{amount:,.{decimals}f} {unit}"
