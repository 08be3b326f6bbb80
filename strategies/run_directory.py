"""Where a run leaves its results: every file appears whole or not at all."""

import csv
import fcntl
import io
import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import ConfigError
from strategies.results import Results

_VERSIONED = ("fedserdiff", "flwr", "ray", "torch", "monai", "nibabel", "nilearn", "numpy", "scipy")


class RunDirectory:
    """A run's folder: ``config.json``, ``results.json``, ``results.csv``, ``student.pt``, ``teacher.pt``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, path: Path) -> "RunDirectory":
        """Make the folder of a new run.

        Raises
        ------
        ConfigError
            Where it cannot be made or already holds something.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        if taken:
            raise ConfigError(f"{path}: is not empty: a run writes into a new directory")
        return cls(path)

    @classmethod
    def of_federation(cls, path: Path, patience_s: float = 120) -> "RunDirectory":
        """Make the folder of a federation's one run, or open it to go on; it stays this process's until it ends.

        A process whose SuperLink was killed ends half a minute later: it is waited for, for `patience_s`.

        Raises
        ------
        ConfigError
            Where it cannot be made, or another process is still at work in it.
        """
        end = time.monotonic() + patience_s
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR)
            while not _locked(lock):  # never closed: held as long as the process lives
                if time.monotonic() > end:
                    raise ConfigError(f"{path}: another process runs this federation: wait for it, or stop it")
                time.sleep(0.2)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be a run directory ({error.strerror})") from None
        return cls(path)

    @property
    def hospitals(self) -> Path:
        """In a simulation, the folder under which each hospital keeps what stays in it."""
        return self.path / "hospitals"

    def write_config(self, config: ExperimentConfig) -> None:
        """Write everything needed to repeat the run."""
        versions = {name: version(name) for name in _VERSIONED}
        versions["python"] = platform.python_version()
        self.write_json("config.json", {**config.to_dict(), "versions": versions})

    def write_results(self, results: Results) -> None:
        """Write ``results.json`` and ``results.csv``."""
        self.write_json("results.json", results.to_dict())
        rows = results.table()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self._replace("results.csv", text.getvalue().encode())

    def write_weights(self, name: str, state: Mapping[str, Any]) -> None:
        """Write ``{name}.pt``, tensors by name and what else `torch.load(weights_only=True)` reads."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._replace(f"{name}.pt", buffer.getvalue())

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON file; NaN is refused."""
        self._replace(name, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())

    def _replace(self, name: str, content: bytes) -> None:
        partial = self.path / f"{name}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path / name)


def _locked(descriptor: int) -> bool:
    """Lock a file, unless another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
