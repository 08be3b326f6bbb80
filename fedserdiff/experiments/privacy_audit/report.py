"""Tables, plots and pages of a privacy audit."""

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
    "SSIM, of the mean slice", "positive control, AUC", "negative control, AUC", "members : others",
)  # fmt: skip

_NEGATIVE = (NEVER, NEVER_SEEN, OTHERS, NEVER_AVERAGED)
_POSITIVE = (COPIES, MEMORISER, DENSE, OF_TWO)


_SHOWN = ("patients of", "attack on", "by", "AUC [95 %]", "negative control, AUC")
"""Columns that fit into a terminal."""


def for_terminal(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with its main columns and, for each channel of each site, only the row with the highest AUC."""
    best: dict[tuple[Any, Any], Sequence[Any]] = {}
    for row in study["rows"]:
        channel = (row[0], row[1])
        if channel not in best or float(row[3].split()[0]) > float(best[channel][3].split()[0]):
            best[channel] = row
    places = [study["columns"].index(name) for name in _SHOWN]
    rows = [[row[place] for place in places] for row in best.values()]
    return {**study, "title": f"{study['title']}, the strongest attack on each", "columns": list(_SHOWN), "rows": rows}


def study_of(everything: Sequence[Finding], federation: Federation, shadows: int) -> dict[str, Any]:
    """Return the findings as a study's table, plot and sentences, with controls beside their attacks."""
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
        "question": "How well can an attacker tell, from what left a hospital, which patients it trained on? An AUC "
        "of 0.5 is guessing, 1 is certainty.",
        "data": f"{federation.data} data, profile {config.profile}, {len(config.sites)} sites, seed {config.seed}, "
        f"{shadows} shadow models for each stage",
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
"""Short names of channels in the plot; the weights of a stage's student are added to them."""


def _plot(found: Sequence[Finding]) -> dict[str, Any]:
    """Return bars of the AUC of each attack in its strictest form; plain nearness is only in the table."""
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
        "x_label": "attack (calibrated, except images and updates)",
        "y_label": "AUC (0.5 is guessing)",
        "log_x": False,
        "series": [series(site) for site in sites],
    }


def _first_of_all(found: Sequence[Finding], controls: Sequence[Finding]) -> str | None:
    """Return warnings to read first: leaks of null maps, and attacks whose controls failed."""
    null = [one for one in found if one.channel.startswith("null")]
    told = [one for one in null if _nearer(one) or (_leaks(one) and one.attack.endswith(CALIBRATED))]
    silent = [one for one in controls if one.channel in _POSITIVE and not _leaks(one)]
    alarmed = [one for one in controls if one.channel in _NEGATIVE and _leaks(one)]
    sentences = []
    if told:
        of = ", ".join(f"{one.site} by {one.attack}" for one in told)
        sentences.append(f"Null error maps tell members from others ({of})")
    if silent:
        sentences.append(
            f"found too little in the positive control, so their findings mean nothing: {_attacks_of(silent)}"
        )
    if alarmed:
        sentences.append(
            f"found something in the negative control, so their findings are not leaks: {_attacks_of(alarmed)}"
        )
    return "; ".join(sentences) or None


def _sentences(found: Sequence[Finding], config: Settings) -> list[str]:
    leaks = [one for one in found if _leaks(one)]
    maps = "only weights" if config.shared_error_maps == "none" else f"{config.shared_error_maps} error maps"
    kinds = {
        "error-maps": maps,
        "synthetic-images": IMAGES,
        LESION_MOMENTS: MOMENTS,
        "fisher": "the Fisher information of weights",
    }
    records = get_method(config.method.name).hands_over_all
    shared = " and ".join(kinds.get(record, f"{record}, which this audit does not attack") for record in records)
    worst = "; ".join(f"{one.site}, {one.channel}, {one.attack}: {one.auc.value:.2f}" for one in leaks)
    return [
        f"The hospitals of this run shared {shared or 'only weights'}. Other maps, images and moments in the table "
        "are what its students and hospitals would have shared.",
        f"In {len(leaks)} of {len(found)} findings the whole interval of the AUC is above 0.5. {worst}".strip(),
        "A distance ratio below 1 means that shared maps are nearer to training patients than to as many others; p "
        "comes from a permutation test. Training patients and others also differ by chance, and plain nearness shows "
        "only this difference. Weights are attacked with the hospital's adapter, which never leaves the hospital; "
        "without it attacks find less.",
        "Positive controls, which must leak: maps that are copies of patients' errors or of canaries' contours; a "
        "student that memorises two patients; moments of two patients; a dense network's gradient. Negative "
        "controls, which cannot leak: maps of a student that never saw the patients, patients never seen or "
        "averaged, the gradient of another slice.",
        "Update inversion: the attacker knows each slice's outline and truth. Its AUC says how well the "
        "reconstruction tells the slice from other patients' slices. SSIM is that of the reconstruction with the "
        "true slice, and that of the mean slice with it.",
        "Other attacks may find more: this is leakage measured under these attacks, not a proof of privacy. There is "
        "one seed, so the intervals do not include the variation of training between seeds.",
    ]


def _leaks(one: Finding) -> bool:
    """Return whether an attack found something: its whole interval, or its value without one, is above guessing."""
    return (one.auc.value if one.auc.low is None else one.auc.low) > 0.5


def _nearer(one: Finding) -> bool:
    """Return whether shared maps are nearer to training patients, with the whole interval below 1."""
    return one.distance is not None and one.distance.ratio.high is not None and one.distance.ratio.high < 1


def _attacks_of(controls: Sequence[Finding]) -> str:
    return ", ".join(f"{one.attack} on {one.channel}" for one in controls)


def with_ends(interval: Interval) -> str:
    """Return a value and its interval as text for a table."""
    ends = "" if interval.low is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.value:.2f}{ends}"


def _resemblance(one: Resemblance) -> str:
    return f"{with_ends(one.found)}, {with_ends(one.mean_slice)}"


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.value:.1f}"


def write_study(folder: Path, name: str, study: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Write a study as NAME.json (with the entries of `more`), NAME.csv and NAME.html."""
    text = json.dumps({**study, **more}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    table = io.StringIO(newline="")
    csv.writer(table).writerows([study["columns"], *study["rows"]])
    page = render_page(None, [study], None)
    for ending, content in (("json", text), ("csv", table.getvalue()), ("html", page)):
        write_whole(folder / f"{name}.{ending}", partial(_put, content))


def _put(content: str, opened: BinaryIO) -> None:
    opened.write(content.encode())
