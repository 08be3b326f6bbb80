"""Utility and leakage of methods side by side: ``fedserdiff audit frontier``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.comparison.summary import paired_estimates
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import Estimate, Interval
from fedserdiff.experiments.privacy_audit.attacks import CALIBRATED, CANARIES, IMAGES, LAST
from fedserdiff.experiments.privacy_audit.lesion_moments import MOMENTS
from fedserdiff.experiments.privacy_audit.report import with_ends, write_study
from fedserdiff.methods import get_method
from fedserdiff.report.console import as_called
from fedserdiff.report.tables import print_study
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import LESION_MOMENTS
from strategies.run_directory import RunDirectory

PRIVACY = "privacy.json"
_COLUMNS = ("run", "final mean Dice % [95 %]", "worst AUC [95 %]", "worst attack", "ε of a hospital", "data sent")


@dataclass(frozen=True)
class _Worst:
    """The attack that best tells members from others, on what a run's hospitals sent."""

    auc: Interval
    of: str


def audit_frontier(console: Console, runs: Sequence[Path], out: Path) -> None:
    """Compare audited runs' Dice with the worst attack on each; print a table and write ``frontier.*`` into `out`.

    Raises
    ------
    ConfigError
        If a run is not finished, uses other data, or is not audited although an attack could find something.
    """
    records: dict[str, RunRecord] = {}
    for run in runs:
        record = load_run(run)
        name = _name(record.config)
        if name in records:
            raise ConfigError(f"{run}, {records[name].path}: both are runs of {name}; give only one of them")
        records[name] = record
    data = _same_data(records)
    worst = {name: _worst(record) for name, record in records.items()}
    estimates = paired_estimates(
        {name: {record.config.seed: record.scores["dice"]} for name, record in records.items()},
        phantom=data.startswith("phantom"),
    )
    dice = {name: scaled(one["final"], 100) for name, one in estimates.items() if one["final"] is not None}
    study = _study(records, dice, worst, data)
    out.mkdir(parents=True, exist_ok=True)
    write_study(out, "frontier", study, {})
    shown = len(_COLUMNS) - 1  # columns that fit into a terminal
    print_study(console, {**study, "columns": study["columns"][:shown], "rows": [r[:shown] for r in study["rows"]]})
    console.print(f"In {out}: frontier.html, frontier.csv, frontier.json", soft_wrap=True)


def _name(config: Settings) -> str:
    return (
        config.method.name
        if config.privacy.dp_noise == 0
        else f"{config.method.name}, noise {config.privacy.dp_noise:g}"
    )


def _same_data(records: Mapping[str, RunRecord]) -> str:
    """Return the data, patients and seed that all runs have in common, in words."""
    told, made = {}, {}
    for record in records.values():
        origin, config = RunDirectory(record.path).read_origin(), record.config
        told[record.path] = (
            f"{origin.name} data, profile {config.profile}, {len(config.sites)} sites, seed {config.seed}"
        )
        made[record.path] = origin
    if len(set(told.values())) > 1:
        raise ConfigError(f"runs differ in data: {'; '.join(f'{run}: {text}' for run, text in told.items())}")
    first, *others = made.items()
    for run, origin in others:
        sites = [name for name, seal in origin.scans.items() if seal != first[1].scans.get(name)]
        if sites:
            raise ConfigError(f"{first[0]}, {run}: use different scans or cases of {', '.join(sites)}")
        versions = [
            f"{name} {first[1].versions.get(name)}, {version}"
            for name, version in origin.versions.items()
            if name != "python" and version != first[1].versions.get(name)
        ]
        if versions:
            raise ConfigError(f"{first[0]}, {run}: were made with different versions: {'; '.join(versions)}")
    return next(iter(told.values()))


def _worst(record: RunRecord) -> _Worst:
    """Return the worst of the attacks that chance differences between patient groups cannot mimic."""
    config = record.config
    method = get_method(config.method.name)
    if method.breaks_privacy:
        return _Worst(Interval(1.0, None, None), "raw scans")
    if not method.federated:
        return _Worst(Interval(0.5, None, None), "nothing")
    file = record.path / PRIVACY
    if not file.is_file():
        raise ConfigError(f"{record.path}: has no {PRIVACY}; run {as_called('audit')} privacy {record.path} first")
    found = [
        one
        for one in json.loads(file.read_bytes())["findings"]
        if (one["attack"].endswith(CALIBRATED) or (one["channel"] == IMAGES and one["attack"] == CANARIES))
        and _leaves(config, one)
    ]
    worst = max(found, key=lambda one: one["auc"]["value"])
    attack = worst["attack"].removesuffix(CALIBRATED)
    return _Worst(Interval(**worst["auc"]), f"{worst['channel']} by {attack} ({worst['site']})")


def _leaves(config: Settings, one: Mapping[str, Any]) -> bool:
    """Return whether a finding is about something that leaves hospitals in this run: weights, maps or images."""
    if one["channel"] in (f"student of stage {one['stage']}", LAST):
        return True
    shared = {
        "error-maps": f"{config.shared_error_maps} error maps",
        "synthetic-images": IMAGES,
        LESION_MOMENTS: MOMENTS,
    }
    taught = (  # stages after which something is handed over
        one["stage"] == 1 or one["channel"] == MOMENTS or getattr(config.method, "teacher", "first") == "latest"
    )
    return taught and one["channel"] in [shared.get(record) for record in get_method(config.method.name).hands_over_all]


def _study(
    records: Mapping[str, RunRecord], dice: Mapping[str, Estimate], worst: Mapping[str, _Worst], data: str
) -> dict[str, Any]:
    """Return the frontier as a study's table, plot and sentences."""
    rows = []
    for name, record in records.items():
        spent = record.results.get("differential_privacy")
        rows.append(
            [
                name, interval_text(dice[name]), with_ends(worst[name].auc), worst[name].of,
                None if spent is None else f"{max(spent['epsilon'].values()):.3g}", _what_leaves(record),
            ]
        )  # fmt: skip
    one = next(iter(records.values()))
    scored = one.config.scoring.patients
    cases = sum(count[scored] for count in one.results["cases"].values())
    return {
        "name": "frontier",
        "title": "Utility, and leakage under these attacks",
        "question": "How much does an attacker learn about who was trained on, compared with the Dice that a method "
        "reaches? An AUC of 0.5 is guessing, 1 is certainty.",
        "data": f"{data}, {cases} {scored} cases",
        "leak": None,
        "columns": list(_COLUMNS),
        "rows": rows,
        "plot": {
            "kind": "scatter",
            "x_label": "final mean Dice %",
            "y_label": "worst AUC (0.5 is guessing)",
            "log_x": False,
            "series": [
                {
                    "label": "runs", "x": [dice[name].value for name in worst], "texts": list(worst),
                    "y": [one.auc.value for one in worst.values()], "low": [one.auc.low for one in worst.values()],
                    "high": [one.auc.high for one in worst.values()],
                }
            ],
        },
        "sentences": [
            "Worst AUC is the highest AUC of calibrated attacks and canaries on what the run's hospitals sent. The "
            "highest of many values is partly high by chance, so differences within the intervals mean nothing.",
            "If raw scans leave, they are copies of patients, so the AUC is 1 by construction. If hospitals train "
            "alone, nothing leaves, so it is 0.5 by construction.",
            "ε covers all training patients of a hospital together, at δ = 1e-5, over all rounds. An ε of hundreds "
            "guarantees nothing, regardless of what attacks find.",
            "There is one seed, and this is leakage measured under these attacks, not a proof of privacy.",
        ],
    }  # fmt: skip


def _what_leaves(record: RunRecord) -> str:
    method = get_method(record.config.method.name)
    if method.breaks_privacy:
        return "raw scans (breaks privacy)"
    if not method.federated:
        return "nothing"
    kinds = {kind for kinds in record.results["bytes_out"].values() for kind in kinds}
    return ", ".join(sorted(kinds - {"metrics", "site", "scan-hashes"})).replace("arrays", "weights")
