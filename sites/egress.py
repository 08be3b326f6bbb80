"""Egress control of a hospital: the guard that every answer to the coordinator must pass, with default deny."""

import logging
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from logging.handlers import WatchedFileHandler
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import (
    ConfigError,
    DataError,
    DivergedError,
    ExperimentError,
    FederationError,
    RecordsError,
    ReplyError,
    WithheldError,
)
from fedserdiff.gpu_memory import share_of_need, what_to_lower
from fedserdiff.lesions.retention import watched_places
from fedserdiff.methods import get_method
from fedserdiff.privacy.gaussian import most_releases
from fedserdiff.reply_schema import admit, check_update, reply_rules
from fedserdiff.settings.experiment import Settings
from fedserdiff.wire import Fault
from sites.ledger import LEDGER_FILE, Ledger, Released
from sites.released_changes import ReleasedChanges

RELEASED_FOLDER = "released"
"""Folder in a hospital's folder with noisy weight changes that have left, for repeated requests."""

_MEGABYTE = 1_000_000
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")  # CUDA's, torch's, the system's
# torch's, CUDA's, cuBLAS'
_OUT_OF_GPU_MEMORY = (
    "cuda out of memory",
    "cuda error: out of memory",
    "status_alloc_failed",
)


@dataclass(frozen=True)
class Door:
    """The guard at one hospital: only what `config` allows passes it, after it is written to the ledger in `records`.

    `site` is the hospital's number, from 0.
    """

    records: Path
    config: Settings
    site: int

    @property
    def ledger(self) -> Ledger:
        """The hospital's ledger."""
        return Ledger(self.records / LEDGER_FILE)

    @property
    def released(self) -> ReleasedChanges:
        """Noisy answers that have left, and leave again if the same is requested."""
        return ReleasedChanges(self.records / RELEASED_FOLDER, self.config, hospital_log(self.records))

    def reply(self, message: Message, content: RecordDict) -> Message:
        """Return an answer that may leave, or a refusal with a fixed code; the hospital's ledger and log say why."""
        try:
            student = _any_student(self.config)
            kind, asked = message.metadata.message_type, records_asked_for(message, self.config)
            watched = watched_in(message, self.config)
            allowed = admit(content, reply_rules(kind, self.config, self.site, student, asked, watched))
            check_update(allowed, self.config)
            self._check_quota(allowed)
            self._check_releases(allowed)
        except ReplyError as refusal:
            hospital_log(self.records).error("%s refused: %s", message.metadata.message_type, refusal)
            self._enter(message, "refused", str(refusal), _described(content))
            fault = Fault.DIVERGED if isinstance(refusal, DivergedError) else Fault.BLOCKED
            return _error(message, fault)
        self.released.keep(message, allowed)
        self._enter(message, "sent", "", _described(allowed))
        return Message(allowed, reply_to=message)

    def fault(self, message: Message, error: Exception) -> Message:
        """Return an error reply that only contains the kind of an exception; its text goes to the hospital's log."""
        fault = _fault_of(error)
        kind, log = message.metadata.message_type, hospital_log(self.records)
        log.error("%s failed", kind, exc_info=error)
        if fault is Fault.GPU_MEMORY:
            log.error(
                "the GPU's memory is not large enough: %s", what_to_lower(self.config, kind, share_of_need(str(error)))
            )
        self._enter(message, "fault", fault.name, [])
        return _error(message, fault)

    def _check_quota(self, content: RecordDict) -> None:
        size = sum(wire.bytes_by_kind(content).values())
        if self.ledger.bytes_sent() + size > self.config.privacy.egress_quota_mb * _MEGABYTE:
            raise ReplyError(f"egress_quota_mb = {self.config.privacy.egress_quota_mb:g} is used up")

    def _check_releases(self, content: RecordDict) -> None:
        """Check that no more weight changes leave than the privacy accounting includes; repeating the same one is free.

        This holds for all requests: a coordinator that starts again meets a hospital that has already spent its budget.
        """
        if self.config.privacy.dp_noise == 0 or wire.ARRAYS not in content:
            return
        released = self.ledger.digests_sent(wire.ARRAYS) | {_digest(content.array_records[wire.ARRAYS])}
        if len(released) > (most := most_releases(self.config, self.site)):
            raise ReplyError(f"dp_noise: all {most} weight changes that the privacy budget allows have left already")

    def _enter(self, message: Message, verdict: str, reason: str, records: Iterable[Released]) -> None:
        self.records.mkdir(parents=True, exist_ok=True)
        orders = message.content.config_records.get(wire.CONFIG) if message.has_content() else None
        number = {name: value for name, value in (orders or {}).items() if type(value) is int}
        self.ledger.append(
            run=message.metadata.run_id,
            message=message.metadata.message_type,
            stage=number.get("stage"),
            server_round=number.get("server-round"),
            verdict=verdict,
            reason=reason,
            records=tuple(records),
        )


class GuardedApp(ClientApp):
    """A ClientApp that sends only what the hospital's guard allows: answers and refusals, but no text of exceptions.

    The guard is the outermost layer: around handlers and mods, and around Flower's own error for a missing handler.

    Parameters
    ----------
    door : callable
        Function that returns the hospital's guard for Flower's context.
    """

    def __init__(self, door: Callable[[Context], Door]) -> None:
        super().__init__()
        self._door = door

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message; never raises."""
        try:
            door = self._door(context)
            try:
                released = door.released.answer_to(message)
                if released is not None:
                    return door.reply(message, released)
                reply = super().__call__(deepcopy(message), context)  # the original request stays unchanged
                if reply.has_error():
                    raise FederationError("a handler returned its own error")
                return door.reply(message, reply.content)
            except Exception as error:  # noqa: BLE001 - catch everything: Flower would send the exception's text
                return door.fault(message, error)
        except Exception as error:  # not a site of the experiment, or a ledger that cannot be read or written
            logging.getLogger("fedserdiff.hospital").error("no answer could be recorded", exc_info=error)
            return _error(message, Fault.PROTOCOL if isinstance(error, ConfigError) else Fault.INTERNAL)


def records_asked_for(message: Message, config: Settings) -> tuple[str, ...]:
    """Return the method's records that a message requests after a stage: all if it names none."""
    order = message.content.config_records.get(wire.CONFIG) if message.has_content() else None
    names = None if order is None else order.get("records")
    agreed = get_method(config.method.name).hands_over_all
    return tuple(name for name in agreed if name in names) if isinstance(names, list) else agreed


def watched_in(message: Message, config: Settings) -> tuple[int, ...]:
    """Return the earlier hospitals, by number from 1, whose retention an answer has to report."""
    kept = message.content.array_records.get(wire.LESION_MOMENTS) if message.has_content() else None
    order = message.content.config_records.get(wire.CONFIG) if message.has_content() else None
    if kept is None or order is None or "patients" not in kept:
        return ()
    return watched_places(config, order.get("server-round"), kept["patients"].numpy().ravel().tolist())


def hospital_log(folder: Path) -> logging.Logger:
    """Return the hospital's own log, ``hospital.log`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"fedserdiff.hospital.{folder.resolve()}")
    if not log.handlers:
        # the folder may be deleted and created again while the hospital runs
        handler = WatchedFileHandler(folder / "hospital.log", encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.INFO)
    return log


@lru_cache(maxsize=4)
def _any_student(config: Settings) -> ArrayRecord:
    return wire.weights_to_record(Student(config))


def _error(message: Message, fault: Fault) -> Message:
    return Message(Error(code=int(fault), reason=fault.name), reply_to=message)


def _fault_of(error: Exception) -> Fault:
    if isinstance(error, WithheldError):
        return Fault.BLOCKED
    if isinstance(error, DataError):
        return Fault.DATA
    if isinstance(error, RecordsError):
        return Fault.RECORDS
    if isinstance(error, ExperimentError):
        return Fault.EXPERIMENT
    if isinstance(error, ConfigError | FederationError):
        return Fault.PROTOCOL
    if isinstance(error, torch.OutOfMemoryError) or any(told in str(error).lower() for told in _OUT_OF_GPU_MEMORY):
        return Fault.GPU_MEMORY
    if isinstance(error, MemoryError) or any(told in str(error).lower() for told in _OUT_OF_MEMORY):
        return Fault.MEMORY
    return Fault.INTERNAL


def _digest(record: ArrayRecord | ConfigRecord | MetricRecord) -> str:
    try:
        return record.object_id
    except Exception:  # noqa: BLE001 - what Flower cannot encode, such as an int beyond 64 bits, never leaves
        return ""


def _described(content: RecordDict) -> Iterable[Released]:
    """Describe records for the ledger; the digest is Flower's object id, a SHA-256 of the transmitted bytes."""
    sizes = wire.bytes_by_kind(content)
    for name, record in content.items():
        arrays = record.items() if isinstance(record, ArrayRecord) else ()
        yield Released(
            name=name,
            kind=type(record).__name__,
            arrays={key: f"{array.dtype}{list(array.shape)}" for key, array in arrays},
            bytes=sizes[name],
            sha256=_digest(record),
        )
