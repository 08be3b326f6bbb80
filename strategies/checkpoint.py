"""Checkpoints: the coordinator's state for resuming after its process ends, in one file with a checksum."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from flwr.app import ArrayRecord

from fedserdiff.errors import ConfigError
from fedserdiff.origin import differences, installed_versions, other_versions
from fedserdiff.settings.experiment import Settings
from strategies.overlap import SharedScans
from strategies.results import Results
from strategies.run_directory import CHECKPOINTS, RunDirectory
from strategies.scoring import Scoring
from strategies.stage_runner import StageRunner

_MAGIC = b"fedserdiff checkpoint 2\n"
_SEAL = len(_MAGIC) + 64 + 1  # magic, SHA-256 in hexadecimal, newline
_OF_RESULTS = ("rows", "stages", "losses", "seconds", "cases", "interruptions", "absences", "retention", "notes")


@dataclass(frozen=True, order=True)
class Position:
    """Position of a run in its stream.

    Attributes
    ----------
    stage : int
        The current stage, from 1; one beyond the last when the stream has ended.
    rounds : int
        Number of finished rounds in it.
    scored : bool
        Whether its student has been scored, so that only asking for what the method keeps is left to do.
    """

    stage: int = 1
    rounds: int = 0
    scored: bool = False

    def __str__(self) -> str:
        if self.scored:
            return f"stage {self.stage}, scored"
        if self.rounds:
            return f"stage {self.stage}, round {self.rounds}"
        return f"stage {self.stage - 1}" if self.stage > 1 else "the untrained student's scores"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a step of a run: its position, the current student, and everything else by name.

    Adam starts again at hospitals in each round, and every generator is seeded by stage and round, so their states are
    not needed.
    """

    position: Position
    arrays: ArrayRecord
    rest: Mapping[str, Any]
    damaged: str = ""
    """What is wrong with the last checkpoint, if this is the one before it."""

    @classmethod
    def load(cls, run: RunDirectory, config: Settings) -> "Checkpoint | None":
        """Load the last intact checkpoint of a run directory; return None if none has been written.

        Raises
        ------
        ConfigError
            If neither the last checkpoint nor the one before it can be read, or they belong to another experiment or
            were written by other versions of the software.
        """
        faults = []
        for name in CHECKPOINTS:
            if not (run.path / name).exists():
                continue
            try:
                saved = _read(run, name)
            except ConfigError as error:
                faults.append(str(error))
                continue
            _check_origin(saved, config, f"{run.path / name}")
            return cls(Position(**saved["position"]), ArrayRecord(saved["arrays"]), saved, "; ".join(faults))
        if faults:
            raise ConfigError(
                f"{'; '.join(faults)}: no checkpoint is left to resume from; move {run.path} away and start again"
            )
        return None

    def moved_to(self, config: Settings) -> str:
        """Return a note if the run resumes on another kind of device, which changes last digits; otherwise ""."""
        if self.rest["on_gpu"] == (config.machine.gpus_per_site > 0):
            return ""
        return "on a GPU, before on CPUs" if config.machine.gpus_per_site else "on CPUs, before on a GPU"

    def restore(self, runner: StageRunner, results: Results, scoring: Scoring, scans: SharedScans) -> None:
        """Restore the state of all parts of a run."""
        for name, value in json.loads(self.rest["results"]).items():
            setattr(results, name, value)
        scoring.students = {int(row): ArrayRecord(student) for row, student in self.rest["students"].items()}
        runner.stream.load_state_dict(self.rest["method"])
        runner.aggregator.load_state_dict(self.rest["aggregation"])
        scans.load_state_dict(json.loads(self.rest["scans"]))
        ledgers = ((runner.inbox.bytes_out, "bytes_out"), (runner.outbox.bytes_in, "bytes_in"))
        for ledger, saved in ledgers:
            for site, kinds in self.rest[saved].items():
                ledger[site].update(kinds)


def save_checkpoint(
    run: RunDirectory,
    position: Position,
    arrays: ArrayRecord,
    runner: StageRunner,
    results: Results,
    scoring: Scoring,
    scans: SharedScans,
) -> None:
    """Write the state after a step; keep the one before beside it.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    config = runner.config
    state = {
        "experiment": json.dumps(config.agreed),
        "versions": installed_versions(),
        "position": asdict(position),
        "on_gpu": config.machine.gpus_per_site > 0,
        "arrays": arrays.to_torch_state_dict(),
        "students": {str(row): student.to_torch_state_dict() for row, student in scoring.students.items()},
        "method": runner.stream.state_dict(),
        "aggregation": runner.aggregator.state_dict(),
        "scans": json.dumps(scans.state_dict()),
        "results": json.dumps({name: getattr(results, name) for name in _OF_RESULTS}),
        "bytes_out": {site: dict(kinds) for site, kinds in runner.inbox.bytes_out.items()},
        "bytes_in": {site: dict(kinds) for site, kinds in runner.outbox.bytes_in.items()},
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    seal = hashlib.sha256(content).hexdigest().encode()
    last, previous = CHECKPOINTS
    run.write_file(last, _MAGIC + seal + b"\n" + content, keep=previous)


def _read(run: RunDirectory, name: str) -> dict[str, Any]:
    file = run.path / name
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    if not content.startswith(_MAGIC):
        raise ConfigError(f"{file}: is damaged: it is not a checkpoint of this version")
    seal, payload = content[len(_MAGIC) : _SEAL - 1], content[_SEAL:]
    if hashlib.sha256(payload).hexdigest().encode() != seal:
        raise ConfigError(f"{file}: is damaged: its checksum differs")
    saved: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True)
    return saved


def _check_origin(saved: Mapping[str, Any], config: Settings, where: str) -> None:
    """Check that a checkpoint belongs to this experiment and this software."""
    others = other_versions(saved["versions"])
    if others:
        raise ConfigError(f"{where}: was written with other versions: {'; '.join(others)}; install those to continue")
    theirs, ours = json.loads(saved["experiment"]), json.loads(json.dumps(config.agreed))
    if differing := differences(theirs, ours):
        raise ConfigError(f"{where}: belongs to another experiment: {'; '.join(differing)}")
