"""Where a run leaves its results: every file appears whole or not at all."""

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
"""A run's state, and the one before for when the disk has lost bits of the last."""

_CONFIG, _RESULTS, _LOCK, FLOWER_LOG = "config.json", "results.json", "lock", "flower.log"
_OF_AN_EMPTY_RUN = {_LOCK, *(f"{name}{end}" for name in (_CONFIG, SKIPPED) for end in ("", ".partial")), FLOWER_LOG}


class RunDirectory:
    """A run's folder: ``config.json``, ``results.json``, ``results.csv``, ``student.pt``, ``teacher.pt``.

    Beside them ``student-of-stage-K.pt`` after each stage K: what a federation has sent, for audits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, path: Path) -> "RunDirectory":
        """Make the folder of a new run; it is this process's until it ends.

        Raises
        ------
        ConfigError
            Where it cannot be made, or already holds something: more than a run that had begun and done nothing.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._see_that_nothing_was_run()
            run._hold(0)
            run._see_that_nothing_was_run()  # by a process that held it meanwhile
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        return run

    def _see_that_nothing_was_run(self) -> None:
        found = {entry.name for entry in self.path.iterdir()}
        if found <= _OF_AN_EMPTY_RUN and (not found or _LOCK in found):
            return
        raise ConfigError(
            f"{self.path}: is not empty: a run writes into a new directory, or goes on by --resume {self.path}"
        )

    @classmethod
    def of_interrupted(cls, path: Path) -> "RunDirectory":
        """Open the folder of a run that has ended before its time, to go on; it is this process's until it ends.

        Raises
        ------
        ConfigError
            Where it is no run's folder, or another process is still at work in it.
        """
        run = cls(path)
        if not run.begun:
            raise ConfigError(f"{path}: is no directory of a run that had begun: it holds no {_CONFIG}")
        return run._hold(0)

    @classmethod
    def of_federation(cls, path: Path, patience_s: float = 120) -> "RunDirectory":
        """Make the folder of a federation's one run, or open it to go on; it is this process's until it ends.

        A process whose SuperLink was killed ends half a minute later: it is waited for, for `patience_s`.

        Raises
        ------
        ConfigError
            Where it cannot be made, or another process is still at work in it.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        return cls(path)._hold(patience_s)

    @classmethod
    def of_comparison(cls, path: Path, config: Settings, scans: Scans, patience_s: float = 30) -> "RunDirectory":
        """Open the folder of a run of `config` on `scans` to go on, or begin it; it is this process's until it ends.

        The run of a process that was killed ends a moment later: it is waited for, for `patience_s`.

        Raises
        ------
        ConfigError
            Where it cannot be made, another process is at work in it, or it holds the state of another run.
        """
        run = cls.of_federation(path, patience_s)
        if not run.can_go_on:
            run._clear()
        elif different := run.read_origin().difference(config, scans):
            raise ConfigError(f"{path}: holds the state of another run: {different}")
        return run

    def _clear(self) -> None:
        """Take away what a run left that did nothing yet, but for logs."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != _LOCK and entry.suffix != ".log":
                entry.unlink()

    def _hold(self, patience_s: float) -> "RunDirectory":
        """Lock the folder for as long as this process lives, waiting for another process so many seconds."""
        end = time.monotonic() + patience_s
        try:
            lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR)  # never closed
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be a run directory ({error.strerror})") from None
        while not try_lock(lock):
            if time.monotonic() > end:
                os.close(lock)
                raise ConfigError(f"{self.path}: another process is at work on this run: wait for it, or stop it")
            time.sleep(0.2)
        return self

    @property
    def hospitals(self) -> Path:
        """In a simulation, the folder under which each hospital keeps what stays in it."""
        return self.path / "hospitals"

    @property
    def can_go_on(self) -> bool:
        """Whether there is a state to go on from: of a round at least, or of the untrained student's scores."""
        return any((self.path / name).is_file() for name in CHECKPOINTS)

    @property
    def begun(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / _CONFIG).is_file()

    def write_config(self, config: Settings, provenance: Mapping[str, Any] | None = None) -> None:
        """Write everything needed to repeat the run, and its `Origin.provenance`, in a simulation of its scans, too."""
        known = {"versions": installed_versions(), **(provenance or {})}
        self.write_json(_CONFIG, {**config.to_dict(), PROVENANCE: known})

    def read_origin(self) -> Origin:
        """Return what the run was made of, as `write_config` wrote it.

        Raises
        ------
        ConfigError
            Where it cannot be read.
        """
        values = self._read_json(_CONFIG)
        try:
            return Origin.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{self.path / _CONFIG}: {error}") from None

    def read_seconds(self) -> dict[str, float]:
        """Return the seconds that ``results.json`` tells so far; none where no round has ended."""
        if not (self.path / _RESULTS).is_file():
            return {}
        return {str(name): float(value) for name, value in self._read_json(_RESULTS).get("seconds", {}).items()}

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            values = json.loads((self.path / name).read_bytes())
        except OSError as error:
            raise ConfigError(f"{self.path / name}: cannot be read ({error.strerror})") from None
        except ValueError:
            raise ConfigError(f"{self.path / name}: is damaged: it is no JSON") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{self.path / name}: is not what a run writes there")
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
        """Write a file whole or not at all, safe from a power cut; what stood there is kept under the name `keep`.

        Raises
        ------
        StorageError
            Where it cannot be written, on a full disk say; what stood there stands there still.
        """
        file = self.path / name
        try:
            write_whole(file, lambda opened: opened.write(content), keep_as=self.path / keep if keep else None)
        except OSError as error:
            raise StorageError(
                f"{file}: cannot be written ({error.strerror}): the run stands as it was last written; see to the "
                "disk, then go on"
            ) from None
