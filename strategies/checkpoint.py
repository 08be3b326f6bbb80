"""What a coordinator needs to go on after the last stage that ended, should its process end: one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from flwr.app import Array, ArrayRecord

from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import ConfigError
from strategies.base import ArrivalStrategy
from strategies.results import Results
from strategies.run_directory import RunDirectory
from strategies.scoring import Scoring

FILE = "checkpoint.pt"

_ANEW = "move its folder away to begin anew"
_OF_RESULTS = ("rows", "stages", "losses", "seconds", "cases")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a stage: its number, the standing student, and everything else by name."""

    stage: int
    arrays: ArrayRecord
    rest: Mapping[str, Any]

    @classmethod
    def load(cls, run: RunDirectory, config: ExperimentConfig) -> "Checkpoint | None":
        """Return the last checkpoint of a run directory; None where no stage has ended.

        Raises
        ------
        ConfigError
            Where it cannot be read, or belongs to another experiment.
        """
        file = run.path / FILE
        if not file.exists():
            return None
        try:
            saved = torch.load(file, weights_only=True)
        except Exception as error:  # noqa: BLE001 - unpickling fails in many ways; all mean one thing to a user
            raise ConfigError(f"{file}: cannot be read ({type(error).__name__}): {_ANEW}") from None
        if not isinstance(saved, dict) or "experiment" not in saved:
            raise ConfigError(f"{file}: cannot be read (it is no checkpoint): {_ANEW}")
        if saved["experiment"] != config.fingerprint:
            raise ConfigError(f"{file}: belongs to another experiment, or to another version of fedserdiff")
        return cls(saved["stage"], _record(saved["arrays"]), saved)

    def restore(self, strategy: ArrivalStrategy, results: Results, scoring: Scoring) -> None:
        """Put everything back as it was when the stage had ended."""
        for name, value in json.loads(self.rest["results"]).items():
            setattr(results, name, value)
        scoring.students = {int(row): _record(student) for row, student in self.rest["students"].items()}
        if self.rest["teacher"] is not None:
            strategy.teacher = _record(self.rest["teacher"])
            strategy.teacher_stage = self.rest["teacher_stage"]
        strategy.take_back(self.rest["kept"])
        for ledger, saved in ((strategy.bytes_out, "bytes_out"), (strategy.bytes_in, "bytes_in")):
            for site, kinds in self.rest[saved].items():
                ledger[site].update(kinds)


def save_checkpoint(
    run: RunDirectory,
    stage: int,
    arrays: ArrayRecord,
    strategy: ArrivalStrategy,
    results: Results,
    scoring: Scoring,
) -> None:
    """Write the state after a stage, in place of the one before."""
    run.write_weights(
        "checkpoint",
        {
            "experiment": strategy.config.fingerprint,
            "stage": stage,
            "arrays": _tensors(arrays),
            "students": {str(row): _tensors(student) for row, student in scoring.students.items()},
            "teacher": None if strategy.teacher is None else _tensors(strategy.teacher),
            "teacher_stage": strategy.teacher_stage,
            "kept": strategy.kept(),
            "results": json.dumps({name: getattr(results, name) for name in _OF_RESULTS}),
            "bytes_out": {site: dict(kinds) for site, kinds in strategy.bytes_out.items()},
            "bytes_in": {site: dict(kinds) for site, kinds in strategy.bytes_in.items()},
        },
    )


def _tensors(record: ArrayRecord) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def _record(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy()) for name, tensor in tensors.items()})
