"""What an attacker gets from a finished run: ``audit.py privacy``."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.status import Status

from fedserdiff.config import ExperimentConfig
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Interval
from fedserdiff.files import write_whole
from fedserdiff.methods import get_method
from fedserdiff.report.page import render_page
from fedserdiff.report.tables import print_study
from fedserdiff.threads import use_cpus
from sites.adapters import load_adapter
from sites.hospital import open_hospital
from strategies.run_directory import RunDirectory

from privacy_attacks import (
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
    attack_canaries,
    attack_images,
    attack_maps,
    attack_weights,
    control_maps,
    control_weights,
)
from privacy_models import Target, train_shadows
from privacy_updates import EXACT, ONE_STEP, ROUND, attack_updates, control_updates
from simulation import CACHE, CASES, PHANTOM, Federation, load_student, reopen

_STRANGERS = 64  # patients of each phantom scanner whom nobody trains on, beside the test patients
_STRANGERS_SEED = 5000  # plus the run's: no run's own patients
_COLUMNS = (
    "patients of", "attack on", "by", "AUC [95 %]", "TPR % at FPR 1 %, 0.1 %", "distance ratio [95 %]", "p",
    "SSIM, of the mean slice", "where it leaks, AUC", "where nothing can", "members : others",
)  # fmt: skip

_NEGATIVE, _POSITIVE = (NEVER, NEVER_SEEN, OTHERS), (COPIES, MEMORISER, DENSE)


def audit_privacy(console: Console, run: Path, shadows: int) -> None:
    """Attack what a run's hospitals sent, print what came of it, and write ``privacy.json``, ``.csv`` and ``.html``.

    Raises
    ------
    ConfigError
        Where the run is not finished, or its stages are not one hospital's each.
    """
    federation = reopen(console, RunDirectory(run))
    config = federation.config
    _check(run, config)
    use_cpus(config.cpus_per_site)
    with console.status("preparing") as status:
        found: list[Finding] = []
        for stage in range(1, len(config.sites) + 1):
            site = config.sites[stage - 1].name
            target = _target(run, federation, stage)
            for attack in _attacks(run, target, shadows, config, partial(_tell, status, site)):
                found.extend(attack)
            console.print(f"  {site}: attacked")
    study = _study(found, federation, shadows)
    _write(run, study, found)
    print_study(
        console, {**study, "rows": _strongest(study["rows"]), "title": f"{study['title']}, the strongest of each"}
    )
    console.print(f"All {len(study['rows'])} findings: {run / 'privacy.html'}", soft_wrap=True)


def _tell(status: Status, site: str, what: str) -> None:
    status.update(f"{site}: {what}")


def _check(run: Path, config: ExperimentConfig) -> None:
    """See that the run is finished and that each of its stages is one hospital's."""
    if config.participation != "arriving" or config.method == "pooled":
        raise ConfigError(f"{run}: its stages are not one hospital's each: an audit cannot say whose data leak")
    missing = [
        f"student-of-stage-{stage}.pt"
        for stage in range(1, len(config.sites) + 1)
        if not (run / f"student-of-stage-{stage}.pt").is_file()
    ]
    if missing:
        raise ConfigError(f"{run}: holds no {', '.join(missing)}: not finished, or of an earlier version: run it anew")


def _target(run: Path, federation: Federation, stage: int) -> Target:
    config, hospital = federation.config, federation.hospitals[stage - 1]
    federated = get_method(config.method).federated
    return Target(
        hospital=hospital,
        strangers=_strangers(config, stage) if federation.data == PHANTOM else (),
        stage=stage,
        before=_student(run, config, stage - 1 if federated else 0),
        student=_student(run, config, stage),
        adapter=load_adapter(run / "hospitals" / hospital.site.name, config, (stage + 1, 0)),
    )


def _student(run: Path, config: ExperimentConfig, stage: int) -> Student:
    return new_student(config).eval() if stage == 0 else load_student(config, run / f"student-of-stage-{stage}.pt")


def _strangers(config: ExperimentConfig, stage: int) -> Sequence[CachedCase]:
    """Return further patients of a phantom hospital's scanner and population."""
    site = config.sites[stage - 1]
    seed = _STRANGERS_SEED + config.seed
    folder = write_phantom_hospital(CACHE / "phantom", stage - 1, _STRANGERS, config.spacing_mm, seed)
    found = open_hospital(replace(site, path=str(folder.resolve()), cases=(), test_cases=()), config, CASES).cases
    # Phantom hospitals number their patients alike.
    return [replace(c, case=replace(c.case, patient=f"stranger {c.case.patient}")) for c in found]


def _attacks(
    run: Path, target: Target, shadows: int, config: ExperimentConfig, told: Callable[[str], None]
) -> Iterator[Iterator[Finding]]:
    """Yield the attacks on a stage, each once it is told of; canaries, images and their controls belong to the first.

    Updates are those of the last, which begins with a student that has learnt most.
    """
    last = len(config.sites)
    final = _student(run, config, last) if get_method(config.method).federated and target.stage < last else None
    trained = train_shadows(target, shadows, config, lambda done: told(f"shadow model {done} of {shadows} is trained"))
    told("error maps")
    yield attack_maps(target, trained, config)
    told("weights")
    yield attack_weights(target, final, trained, config)
    if target.stage == 1:
        told("synthetic images")
        yield attack_images(target, config)
        told("canaries")
        yield attack_canaries(target, config)
        told("controls")
        yield control_maps(target, trained, config)
        yield control_weights(target, trained, config)
    if target.stage == last:
        told("updates")
        yield attack_updates(target, config)
        yield control_updates(target, config)


def _strongest(rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """Return of the rows on each channel of each site the one with the highest AUC: what a terminal has room for."""
    best: dict[tuple[Any, Any], Sequence[Any]] = {}
    for row in rows:
        channel = (row[0], row[1])
        if channel not in best or float(row[3].split()[0]) > float(best[channel][3].split()[0]):
            best[channel] = row
    return list(best.values())


def _study(everything: Sequence[Finding], federation: Federation, shadows: int) -> dict[str, Any]:
    """Return the findings as a study's table, plot and sentences, controls beside what they are controls of."""
    config = federation.config
    found = [one for one in everything if one.channel not in (*_POSITIVE, *_NEGATIVE)]
    controls = [one for one in everything if one not in found]

    def control(one: Finding, channels: Sequence[str]) -> str | None:
        return next((_text(c.auc) for c in controls if c.channel in channels and c.attack == one.attack), None)

    rows = [
        [
            one.site, one.channel, one.attack, _text(one.auc), ", ".join(_percent(one.tpr[fpr]) for fpr in FPRS),
            None if one.distance is None else _text(one.distance.ratio),
            None if one.distance is None else f"{one.distance.p_value:.3f}",
            None if one.resemblance is None else f"{_text(one.resemblance.found)}, {_text(one.resemblance.mean_slice)}",
            control(one, _POSITIVE), control(one, _NEGATIVE), f"{one.members} : {one.others}",
        ]
        for one in found
    ]  # fmt: skip
    return {
        "name": "privacy",
        "title": f"Leakage measured under these attacks: {config.method}",
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
    "null error maps": "null", "mri error maps": "mri", IMAGES: "image",
    EXACT: "slice", ONE_STEP: "step", ROUND: "round",
}  # fmt: skip
"""Channels of the plot, but for the weights of the own stage."""


def _plot(found: Sequence[Finding]) -> dict[str, Any]:
    """Return bars of the AUC of each attack in its strictest form: calibrated, where it can be."""
    sites = list(dict.fromkeys(one.site for one in found))
    known = {(one.channel, one.attack) for one in found}
    own = [
        one
        for one in found
        if (one.channel, one.attack + CALIBRATED) not in known
        and (one.channel in _SHORT or one.channel == f"student of stage {one.stage}")
    ]

    def name(one: Finding) -> str:
        attack = one.attack.removesuffix(CALIBRATED).removeprefix("nearest ").removesuffix(" loss").removesuffix(" map")
        attack = {CANARIES: "canary", INVERSION: "inverted"}.get(attack, attack)
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
        "x_label": "attack, calibrated by shadow models but for canaries and images",
        "y_label": "AUC (0.5 is guessing)",
        "log_x": False,
        "series": [series(site) for site in sites],
    }


def _first_of_all(found: Sequence[Finding], controls: Sequence[Finding]) -> str | None:
    """Return what is to be read before any figure: what null maps tell, and attacks that did not prove themselves."""
    null = [one for one in found if one.channel.startswith("null")]
    told = [one for one in null if _nearer(one) or (_leaks(one) and one.attack.endswith((CALIBRATED, CANARIES)))]
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


def _sentences(found: Sequence[Finding], config: ExperimentConfig) -> list[str]:
    leaks = [one for one in found if _leaks(one)]
    shared = "no error maps" if config.error_maps == "none" else f"{config.error_maps} error maps"
    worst = "; ".join(f"{one.site}, {one.channel}, {one.attack}: {one.auc.value:.2f}" for one in leaks)
    return [
        f"The hospitals of this run shared {shared}; other maps are what its students would have shared.",
        f"Of {len(found)} findings {len(leaks)} have an AUC above 0.5 with their whole interval. {worst}".strip(),
        "A distance ratio below 1: shared maps are nearer to training patients than to as many others; p is of a "
        "permutation test. Training patients and others differ by chance: what plain nearness alone shows is that. "
        "Weights are attacked with the hospital's adapter, which never leaves: without it less is "
        "found.",
        "Where it leaks: maps that are copies of patients' errors or of canaries' contours; a student that "
        "memorises two patients; a dense network's gradient. Where nothing can: maps of a student that never saw them, "
        "patients never seen, the gradient of another slice.",
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


def _text(interval: Interval) -> str:
    ends = "" if interval.low is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.value:.2f}{ends}"


def _percent(interval: Interval | None) -> str:
    return "–" if interval is None else f"{100 * interval.value:.1f}"


def _write(run: Path, study: Mapping[str, Any], found: Sequence[Finding]) -> None:
    text = (
        json.dumps({**study, "findings": [asdict(one) for one in found]}, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    )
    table = io.StringIO(newline="")
    csv.writer(table).writerows([study["columns"], *study["rows"]])
    for name, content in (
        ("privacy.json", text),
        ("privacy.csv", table.getvalue()),
        ("privacy.html", render_page(None, [study], None)),
    ):
        write_whole(run / name, partial(_put, content))


def _put(content: str, opened: BinaryIO) -> None:
    opened.write(content.encode())
