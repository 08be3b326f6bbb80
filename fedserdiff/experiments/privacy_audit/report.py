"""Tables, plots and pages of what an attacker gets."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedserdiff.evaluation.bootstrap import Interval
from fedserdiff.experiments.opened_federation import Federation
from fedserdiff.experiments.privacy_audit.attacks import (
    CALIBRATED,
    CANARIES,
    COPIES,
    DENSE,
    FPRS,
    IMAGES,
    INVERSION,
    MEMORISER,
    NEVER,
    NEVER_SEEN,
    OTHERS,
    Finding,
    Resemblance,
)
from fedserdiff.experiments.privacy_audit.lesion_moments import MOMENTS, NEVER_AVERAGED, OF_TWO
from fedserdiff.experiments.privacy_audit.updates import EXACT, ONE_STEP, ROUND
from fedserdiff.files import write_whole
from fedserdiff.methods import get_method
from fedserdiff.report.page import render_page
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import LESION_MOMENTS

_COLUMNS = (
    "patients of", "attack on", "by", "AUC [95 %]", "TPR % at FPR 1 %, 0.1 %", "distance ratio [95 %]", "p",
    "SSIM, of the mean slice", "where it leaks, AUC", "where nothing can", "members : others",
)  # fmt: skip

_NEGATIVE = (NEVER, NEVER_SEEN, OTHERS, NEVER_AVERAGED)
_POSITIVE = (COPIES, MEMORISER, DENSE, OF_TWO)


_SHOWN = ("patients of", "attack on", "by", "AUC [95 %]", "where nothing can")
"""Columns that a terminal has room for."""


def for_terminal(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with its main columns, and of the rows on each channel of each site the one of the highest AUC."""
    best: dict[tuple[Any, Any], Sequence[Any]] = {}
    for row in study["rows"]:
        channel = (row[0], row[1])
        if channel not in best or float(row[3].split()[0]) > float(best[channel][3].split()[0]):
            best[channel] = row
    places = [study["columns"].index(name) for name in _SHOWN]
    rows = [[row[place] for place in places] for row in best.values()]
    return {**study, "title": f"{study['title']}, the strongest of each", "columns": list(_SHOWN), "rows": rows}


def study_of(everything: Sequence[Finding], federation: Federation, shadows: int) -> dict[str, Any]:
    """Return the findings as a study's table, plot and sentences, controls beside what they are controls of."""
    config = federation.config
    found = [one for one in everything if one.channel not in (*_POSITIVE, *_NEGATIVE)]
    controls = [one for one in everything if one not in found]

    def control(one: Finding, channels: Sequence[str]) -> str | None:
        return next((with_ends(c.auc) for c in controls if c.channel in channels and c.attack == one.attack), None)

    rows = [
        [
            one.site, one.channel, one.attack, with_ends(one.auc),
            ", ".join(_percent(one.tpr[fpr]) for fpr in FPRS),
            None if one.distance is None else with_ends(one.distance.ratio),
            None if one.distance is None else f"{one.distance.p_value:.3f}",
            None if one.resemblance is None else _resemblance(one.resemblance),
            control(one, _POSITIVE), control(one, _NEGATIVE), f"{one.members} : {one.others}",
        ]
        for one in found
    ]  # fmt: skip
    return {
        "name": "privacy",
        "title": f"Leakage measured under these attacks: {config.method.name}",
        "question": "How well does an attacker tell whom a hospital trained on, from what left it? An AUC of 0.5 is "
        "guessing, 1 is certainty.",
        "data": f"{federation.data} data, profile {config.profile}, {len(config.sites)} sites, seed {config.seed}, "
        f"{shadows} shadow models a stage",
        "leak": _first_of_all(found, controls),
        "columns": list(_COLUMNS),
        "rows": rows,
        "plot": _plot(found),
        "sentences": _sentences(found, config),
    }


_SHORT = {
    "null error maps": "null", "mri error maps": "mri", IMAGES: "image", MOMENTS: "moments",
    EXACT: "slice", ONE_STEP: "step", ROUND: "round",
}  # fmt: skip
"""Channels of the plot, but for the weights of the own stage."""


def _plot(found: Sequence[Finding]) -> dict[str, Any]:
    """Return bars of the AUC of each attack in its strictest form; nearness alone is left to the table."""
    sites = list(dict.fromkeys(one.site for one in found))
    known = {(one.channel, one.attack) for one in found}
    own = [
        one
        for one in found
        if (one.channel, one.attack + CALIBRATED) not in known
        and (one.attack in (CANARIES, INVERSION) or one.attack.endswith(CALIBRATED))
        and (one.channel in _SHORT or one.channel == f"student of stage {one.stage}")
    ]

    def name(one: Finding) -> str:
        attack = one.attack.removesuffix(CALIBRATED).removeprefix("nearest ").removesuffix(" loss").removesuffix(" map")
        attack = {CANARIES: "canary", INVERSION: "update"}.get(attack, attack)
        return f"{_SHORT.get(one.channel, 'weights')} {attack}"

    def series(site: str) -> dict[str, Any]:
        of_site = [one for one in own if one.site == site]
        return {
            "label": f"patients of {site}", "x": [name(one) for one in of_site], "texts": None,
            "y": [one.auc.value for one in of_site], "low": [one.auc.low for one in of_site],
            "high": [one.auc.high for one in of_site],
        }  # fmt: skip

    return {
        "kind": "bars",
        "x_label": "attack, calibrated but for images and updates",
        "y_label": "AUC (0.5 is guessing)",
        "log_x": False,
        "series": [series(site) for site in sites],
    }


def _first_of_all(found: Sequence[Finding], controls: Sequence[Finding]) -> str | None:
    """Return what is to be read before any figure: what null maps tell, and attacks that did not prove themselves."""
    null = [one for one in found if one.channel.startswith("null")]
    told = [one for one in null if _nearer(one) or (_leaks(one) and one.attack.endswith(CALIBRATED))]
    silent = [one for one in controls if one.channel in _POSITIVE and not _leaks(one)]
    alarmed = [one for one in controls if one.channel in _NEGATIVE and _leaks(one)]
    sentences = []
    if told:
        of = ", ".join(f"{one.site} by {one.attack}" for one in told)
        sentences.append(f"Null error maps tell members from others ({of})")
    if silent:
        sentences.append(f"found too little where it leaks, so that their findings say nothing: {_attacks_of(silent)}")
    if alarmed:
        sentences.append(f"found something where nothing can leak, so that theirs are no leak: {_attacks_of(alarmed)}")
    return "; ".join(sentences) or None


def _sentences(found: Sequence[Finding], config: Settings) -> list[str]:
    leaks = [one for one in found if _leaks(one)]
    maps = "weights alone" if config.shared_error_maps == "none" else f"{config.shared_error_maps} error maps"
    kinds = {
        "error-maps": maps,
        "synthetic-images": IMAGES,
        LESION_MOMENTS: MOMENTS,
        "fisher": "how much weights matter",
    }
    records = get_method(config.method.name).hands_over_all
    shared = " and ".join(kinds.get(record, f"{record}, which this audit does not attack") for record in records)
    worst = "; ".join(f"{one.site}, {one.channel}, {one.attack}: {one.auc.value:.2f}" for one in leaks)
    return [
        f"The hospitals of this run shared {shared or 'weights alone'}; maps, images and moments "
        "beside are what its students and hospitals would have shared.",
        f"Of {len(found)} findings {len(leaks)} have an AUC above 0.5 with their whole interval. {worst}".strip(),
        "A distance ratio below 1: shared maps are nearer to training patients than to as many others; p is of a "
        "permutation test. Training patients and others differ by chance: what plain nearness alone shows is that. "
        "Weights are attacked with the hospital's adapter, which never leaves: without it less is "
        "found.",
        "Where it leaks: maps that are copies of patients' errors or of canaries' contours; a student that "
        "memorises two patients; moments of two patients; a dense network's gradient. Where nothing can: "
        "maps of a student that never saw them, patients never seen or averaged, the gradient of another slice.",
        "Update inversion: the attacker knows each slice's outline and truth. Its AUC says how well what it "
        "reconstructs tells the slice from other patients'; SSIM with the true slice, and of the mean slice with it.",
        "Other attacks may find more: this is leakage measured under these attacks, not privacy. One seed: how much "
        "training varies from seed to seed is not in the intervals.",
    ]


def _leaks(one: Finding) -> bool:
    """Say whether an attack found something: the whole interval is above guessing, or its value where it has none."""
    return (one.auc.value if one.auc.low is None else one.auc.low) > 0.5


def _nearer(one: Finding) -> bool:
    """Say whether shared maps are nearer to training patients with the whole interval."""
    return one.distance is not None and one.distance.ratio.high is not None and one.distance.ratio.high < 1


def _attacks_of(controls: Sequence[Finding]) -> str:
    return ", ".join(f"{one.attack} on {one.channel}" for one in controls)


def with_ends(interval: Interval) -> str:
    """Return a value and its interval as a table shows them."""
    ends = "" if interval.low is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.value:.2f}{ends}"


def _resemblance(one: Resemblance) -> str:
    return f"{with_ends(one.found)}, {with_ends(one.mean_slice)}"


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.value:.1f}"


def write_study(folder: Path, name: str, study: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Write a study as NAME.json, with `more` beside it, NAME.csv and NAME.html."""
    text = json.dumps({**study, **more}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    table = io.StringIO(newline="")
    csv.writer(table).writerows([study["columns"], *study["rows"]])
    page = render_page(None, [study], None)
    for ending, content in (("json", text), ("csv", table.getvalue()), ("html", page)):
        write_whole(folder / f"{name}.{ending}", partial(_put, content))


def _put(content: str, opened: BinaryIO) -> None:
    opened.write(content.encode())
