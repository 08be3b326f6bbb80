"""The run directory, in which a run stores its results; files appear complete or not at all."""

import csv
import io
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedserdiff.errors import ConfigError, StorageError
from fedserdiff.files import write_whole
from fedserdiff.locks import try_lock
from fedserdiff.origin import Origin, Scans, installed_versions
from fedserdiff.report.bad_cases import SKIPPED
from fedserdiff.settings.experiment import PROVENANCE, Settings
from strategies.results import COLUMNS, Results

CHECKPOINTS = ("checkpoint", "checkpoint.previous")
"""Files with a run's last state and the one before, in case the last one is damaged."""

_CONFIG, _RESULTS, _LOCK, FLOWER_LOG = "config.json", "results.json", "lock", "flower.log"
_OF_AN_EMPTY_RUN = {_LOCK, *(f"{name}{end}" for name in (_CONFIG, SKIPPED) for end in ("", ".partial")), FLOWER_LOG}


class RunDirectory:
    """A run's folder with ``config.json``, ``results.json``, ``results.csv``, ``student.pt``, ``teacher.pt``.

    After each stage K there is also ``student-of-stage-K.pt``, which the federation has sent, for audits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, path: Path) -> "RunDirectory":
        """Create the folder of a new run, locked by this process until it ends.

        Raises
        ------
        ConfigError
            If it cannot be created or is not empty. Files of a run that had started without doing anything are allowed.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._see_that_nothing_was_run()
            run._hold(0)
            run._see_that_nothing_was_run()  # by a process that held the lock in between
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        return run

    def _see_that_nothing_was_run(self) -> None:
        found = {entry.name for entry in self.path.iterdir()}
        if found <= _OF_AN_EMPTY_RUN and (not found or _LOCK in found):
            return
        raise ConfigError(
            f"{self.path}: is not empty; give a new directory, or resume the run with --resume {self.path}"
        )

    @classmethod
    def of_interrupted(cls, path: Path) -> "RunDirectory":
        """Open the folder of an interrupted run to resume it, locked by this process until it ends.

        Raises
        ------
        ConfigError
            If it is not the folder of a run, or another process is still working in it.
        """
        run = cls(path)
        if not run.begun:
            raise ConfigError(f"{path}: is not the directory of a run: it has no {_CONFIG}")
        return run._hold(0)

    @classmethod
    def of_federation(cls, path: Path, patience_s: float = 120) -> "RunDirectory":
        """Create the folder of a federation's run, or open it to resume, locked by this process until it ends.

        A process whose SuperLink was killed ends half a minute later; wait for it up to `patience_s` seconds.

        Raises
        ------
        ConfigError
            If it cannot be created, or another process is still working in it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        return cls(path)._hold(patience_s)

    @classmethod
    def of_comparison(cls, path: Path, config: Settings, scans: Scans, patience_s: float = 30) -> "RunDirectory":
        """Open the folder of a run of `config` on `scans` to resume or start it, locked by this process until it ends.

        The run of a killed process ends a moment later; wait for it up to `patience_s` seconds.

        Raises
        ------
        ConfigError
            If it cannot be created, another process is working in it, or it has the state of another run.
        """
        run = cls.of_federation(path, patience_s)
        if not run.can_go_on:
            run._clear()
        elif different := run.read_origin().difference(config, scans):
            raise ConfigError(f"{path}: has the state of another run: {different}")
        return run

    def _clear(self) -> None:
        """Delete the files of a run that has not done anything yet, except logs."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK and entry.suffix != ".log":
                entry.unlink()

    def _hold(self, patience_s: float) -> "RunDirectory":
        """Lock the folder until this process ends; wait for another process up to `patience_s` seconds."""
        end = time.monotonic() + patience_s
        try:
            lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)  # never closed
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be a run directory ({error.strerror})") from None
        while not try_lock(lock):
            if time.monotonic() > end:
                os.close(lock)
                raise ConfigError(f"{self.path}: another process is working on this run; wait for it, or stop it")
            time.sleep(0.2)
        return self

    @property
    def hospitals(self) -> Path:
        """In a simulation, the parent folder of the hospitals' own folders."""
        return self.path / "hospitals"

    def student_of(self, site: str) -> Path:
        """Return the file of the student that a site uses at the end: its own, if the method leaves it one."""
        own = self.path / f"student-{site}.pt"
        return own if own.exists() else self.path / "student.pt"

    @property
    def can_go_on(self) -> bool:
        """Whether there is a state to resume from: after at least one round, or after scoring the untrained student."""
        return any((self.path / name).is_file() for name in CHECKPOINTS)

    @property
    def begun(self) -> bool:
        """Whether a run has started in this folder."""
        return (self.path / _CONFIG).is_file()

    def write_config(self, config: Settings, provenance: Mapping[str, Any] | None = None) -> None:
        """Write everything needed to repeat the run, and its `Origin.provenance` (in a simulation with its scans)."""
        known = {"versions": installed_versions(), **(provenance or {})}
        self.write_json(_CONFIG, {**config.to_dict(), PROVENANCE: known})

    def read_origin(self) -> Origin:
        """Return the run's origin, as written by `write_config`.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        values = self._read_json(_CONFIG)
        try:
            return Origin.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{self.path / _CONFIG}: {error}") from None

    def read_seconds(self) -> dict[str, float]:
        """Return the seconds recorded in ``results.json`` so far; empty if no round has ended."""
        if not (self.path / _RESULTS).is_file():
            return {}
        return {str(name): float(value) for name, value in self._read_json(_RESULTS).get("seconds", {}).items()}

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_bytes())
        except OSError as error:
            raise ConfigError(f"{self.path / name}: cannot be read ({error.strerror})") from None
        except ValueError:
            raise ConfigError(f"{self.path / name}: is damaged: it is not JSON") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{self.path / name}: was not written by a run")
        return values

    def write_results(self, results: Results) -> None:
        """Write ``results.json`` and ``results.csv``."""
        self.write_json(_RESULTS, results.to_dict())
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(results.table())
        self.write_file("results.csv", text.getvalue().encode())

    def write_weights(self, name: str, state: Mapping[str, Any]) -> None:
        """Write ``{name}.pt``, tensors by name."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.write_file(f"{name}.pt", buffer.getvalue())

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file; NaN is refused."""
        self.write_file(name, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())

    def write_file(self, name: str, content: bytes, keep: str = "") -> None:
        """Write a file completely or not at all, safe from a power cut; keep the previous file under the name `keep`.

        Raises
        ------
        StorageError
            If it cannot be written, for example on a full disk; the previous file is then unchanged.
        """
        file = self.path / name
        try:
            write_whole(file, lambda opened: opened.write(content), keep_as=self.path / keep if keep else None)
        except OSError as error:
            raise StorageError(
                f"{file}: cannot be written ({error.strerror}). The run is kept as it was last written; fix the disk, "
                "then resume the run"
            ) from None
