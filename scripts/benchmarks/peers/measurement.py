"""The training of one method on one fold, in a separate process, recorded as a row."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.device import use_device
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import use_cpus
from sites.evaluation import score_prediction
from sites.hospital import Hospital, open_hospital

from benchmarks.machine import machine
from benchmarks.peers.budget import Budget, seconds_on
from benchmarks.peers.folds import fold_of
from benchmarks.peers.methods import METHODS
from benchmarks.separate_process import run_apart

METRICS = ("dice", "hd95")
_OF_ALL = ("data.", "scoring.patients", "scoring.hd95", "scoring.least")
_TIMEOUT_S = 48 * 3600.0


@dataclass(frozen=True)
class Task:
    """A method to train on a fold of the settings' sites, with the settings' seed.

    `log` is the file for everything that is printed meanwhile.
    """

    method: str
    config: Settings
    fold: int
    folds: int
    minutes: float
    log: Path

    @property
    def name(self) -> str:
        """Name of its row."""
        return f"{self.method}-fold{self.fold}-seed{self.config.seed}"

    @property
    def asked(self) -> dict[str, Any]:
        """Everything that determines its row, ready for JSON; an existing row is kept if this is the same.

        It includes only settings that the method uses: a change of our training does not invalidate a peer's row.
        """
        goes_by = "" if METHODS[self.method].is_ours else _OF_ALL
        return {
            "method": self.method,
            "fold": self.fold,
            "folds": self.folds,
            "seed": self.config.seed,
            "minutes": self.minutes,
            "sites": self.config.to_dict()["sites"],
            "settings": {name: value for name, value in self.config.deciding.items() if name.startswith(goes_by)},
        }


def measured(task: Task) -> dict[str, Any]:
    """Train and score in a separate process; return the row.

    Raises
    ------
    FedSerDiffError
        As for `run_apart`.
    """
    found, peak = run_apart(_measure, task, f"{task.name} (see {task.log})", _TIMEOUT_S)
    return {"asked": task.asked, **found, "peak_mib": peak}


def _measure(task: Task) -> dict[str, Any]:
    _print_to(task.log)
    config = task.config
    cpus = int(config.machine.cpus_per_site)
    use_cpus(cpus)
    device = use_device(config.machine)
    opened = [open_hospital(site, config, Cache().prepared) for site in config.sites]
    hospital = fold_of(opened, config, task.fold, task.folds)
    trained = METHODS[task.method].train(hospital, config, Budget(task.minutes, device))
    cases = hospital.scored(config)
    begun = seconds_on(device)
    predictions = [trained.predict(cached) for cached in cases]
    predicted_s = seconds_on(device) - begun
    scores = [score_prediction(p, cached, config.scoring) for p, cached in zip(predictions, cases, strict=True)]
    return {
        "sides": _sides(hospital),
        "scored": "validation" if config.scoring.patients == "validation" else "test",
        "iterations": trained.iterations,
        "minutes": trained.used_s / 60,
        "volume_s": predicted_s / len(cases),
        "gpu_peak_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "machine": {**machine(cpus), "python": platform.python_version()},
        "scores": {mask: [_of_mask(one, mask) for one in scores] for mask in trained.masks},
    }


def _sides(hospital: Hospital) -> dict[str, list[dict[str, str]]]:
    """Return the cases of each split, with case name and patient."""

    def named(cases: tuple[CachedCase, ...]) -> list[dict[str, str]]:
        return [{"case": cached.case.name, "patient": cached.case.patient} for cached in cases]

    return {
        "training": named(hospital.training),
        "validation": named(hospital.validation),
        "test": named(hospital.test),
    }


def _of_mask(scores: dict[str, float], mask: str) -> dict[str, float]:
    """Return a mask's scores for a case, by ``METRIC.REGION``."""
    split = {name: name.split(".", 1) for name in scores}
    return {rest: scores[name] for name, (of, rest) in split.items() if of == mask and rest.split(".")[0] in METRICS}


def _print_to(log: Path) -> None:
    """Redirect the output of this process and its children to a file."""
    with log.open("a") as opened:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(opened.fileno(), stream.fileno())
