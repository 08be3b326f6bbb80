"""The records in messages: their names, and the conversion between tensors and records."""

import bz2
import math
import pkgutil
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError, FederationError
from fedserdiff.methods import get_method
from fedserdiff.methods.method import Method
from fedserdiff.plugins import one_line
from fedserdiff.settings.experiment import Settings

# Coordinator to hospital
ARRAYS = "arrays"  # the student's weights; in a hospital's reply, their change in a round
TEACHER = "teacher"  # prefix of the records of teachers' weights, each sent once: see `teacher_record`
CONFIG = "config"  # stage, server-round, length, teacher-stage, records; in a query an experiment's fingerprint, a salt
LEFT_OUT = "left-out"  # which of the hospital's scans an earlier hospital has: salted hashes, and their salt

# Both ways: what a method keeps from earlier hospitals, named by both of its halves. A hospital hands it over when it
# consolidates a stage; the coordinator combines it and sends it with each later round. Third-party methods define more.
ERROR_MAPS = "error-maps"  # synthetic maps, int8, packed
SYNTHETIC_IMAGES = "synthetic-images"  # generated slices or volumes, plain, with masks, packed
LESION_MOMENTS = "lesion-moments"  # appearance of a hospital's lesions: moments over patients, float32
FISHER = "fisher"  # importance of each weight
CONTROL = "control"  # SCAFFOLD's control variate; from a hospital, its change in each round: float32

# Hospital to coordinator
METRICS = "metrics"  # named scalars
SITE = "site"  # answer to the discovery query: the site's number in order of arrival, and rounded counts of its cases
SCANS = "scan-hashes"  # in the same answer: a salted hash of each scan, unless the experiment allows overlap
HISTOGRAMS = "histograms"  # of its training patients, before training starts

HASHES, SALT = "hashes", "salt"
"""Arrays of the records above, uint8 of shape (n, `HASH_BYTES`) and (`SALT_BYTES`,); a query's salt is plain bytes."""

SALT_BYTES = 16
HASH_BYTES = 32

WEIGHT = "num-examples"
"""Metric with which the coordinator weights a hospital's students and scores."""

COUNTS_ROUNDED_TO = 5
"""Case counts are rounded to multiples of this, so that exact enrolment figures stay in the hospital."""

CONSOLIDATE = "train.consolidate"
"""Message type that asks a hospital for the records that its method keeps from a completed stage."""

STATISTICS = "query.statistics"
"""Message type that asks a hospital for histograms of its training patients."""

Memory = Mapping[str, Mapping[str, torch.Tensor]]
"""What a method keeps from earlier hospitals: tensors by record name, then by name."""

LEVELS = 15
"""Levels of a sent error map on each side of 0: steps of 1/15 (our choice; docs/explanation/method.md says why)."""

PACKED = "bz2"
"""Flower `stype` of an array whose data are its values in C order, as one bzip2 stream."""

_OF_WEIGHTS = (FISHER, CONTROL)  # records with one value per weight
_VECTOR = "weights"  # the only array of a record with one value per weight
_OF_ONE_BYTE = ("int8", "uint8")  # types that are packed: they have no byte order


def teacher_record(stage: int) -> str:
    """Return the name of the record with a stage's student as a frozen teacher."""
    return f"{TEACHER}-{stage}"


def is_teacher(record: str) -> bool:
    """Return whether a record with this name holds a teacher."""
    return record.startswith(f"{TEACHER}-")


class Fault(IntEnum):
    """The error codes of a hospital that cannot answer; it never sends the text of an exception."""

    DATA = 210  # its scans cannot be used
    PROTOCOL = 211  # the message requests something impossible
    MEMORY = 212  # the machine is out of memory, perhaps because of other programs
    INTERNAL = 213
    BLOCKED = 214  # it has an answer, but that is not allowed to leave
    EXPERIMENT = 215  # it has another experiment or other software
    GPU_MEMORY = 217  # a GPU is out of memory, and would be again with the same message
    DIVERGED = 216  # a loss or a weight's change is not finite, or the change is beyond float16
    RECORDS = 218  # a file it keeps for itself, such as its adapter, is missing or damaged


def weights_to_record(student: Student) -> ArrayRecord:
    """Return a student's weights as a record with one float32 vector, in the order of its parameters.

    Nothing else of the student is sent: a network's buffers are the same each time it is built
    (`fedserdiff.networks.coarse`).

    It is one vector because Flower sends each array as separate objects: over TLS, the 308 arrays of profile
    ``laptop`` took half a minute per message; the vector takes a second.
    """
    return _vector(dict(student.named_parameters()))


def load_weights(student: Student, record: ArrayRecord) -> None:
    """Load a record made by `weights_to_record` into a student of the same architecture.

    Raises
    ------
    FederationError
        If names or sizes differ, because the two sides have different configurations.
    """
    student.load_state_dict(_by_name(record, dict(student.named_parameters())), strict=False)


def change_to_record(student: Student, received: ArrayRecord) -> ArrayRecord:
    """Return the change of a student's weights from those received, in float16, otherwise as `weights_to_record`.

    This halves the bytes (our choice). Most changes are smaller than their weights, so rounding them costs less than
    rounding the weights; docs/explanation/method.md says how much. A change beyond float16's ±65504 becomes infinite
    and is refused like any other infinite value.
    """
    (trained,), (before,) = weights_to_record(student).values(), received.values()
    change = torch.from_numpy(trained.numpy() - before.numpy())
    return ArrayRecord({_VECTOR: Array(change.half().numpy())})


def changed(sent: ArrayRecord, change: ArrayRecord) -> ArrayRecord:
    """Return the weights that were sent plus a change from `change_to_record`, in float32."""
    return ArrayRecord(
        {name: Array(array.numpy() + change[name].numpy().astype(np.float32)) for name, array in sent.items()}
    )


def _vector(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    return ArrayRecord({_VECTOR: Array(torch.cat([t.detach().cpu().reshape(-1) for t in tensors.values()]).numpy())})


def _by_name(record: ArrayRecord, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    sizes = [tensor.numel() for tensor in like.values()]
    vector = torch.from_numpy(record[_VECTOR].numpy().copy()) if set(record) == {_VECTOR} else torch.empty(0)
    if vector.shape != (sum(sizes),) or vector.dtype != torch.float32:
        raise FederationError("weights do not fit this configuration's student")
    parts = vector.split(sizes)
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def to_levels(maps: torch.Tensor) -> torch.Tensor:
    """Return error maps in [−1, 1] as int8, with `LEVELS` levels on each side of 0, the format in messages."""
    return (maps.clamp(-1, 1) * LEVELS).round().to(torch.int8)


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Return int8 levels as error maps, float32 in [−1, 1]."""
    return levels.float() / LEVELS


def packed(values: NDArray[np.generic]) -> Array:
    """Return int8 or uint8 values as a compressed array; its type and shape remain readable."""
    return Array(str(values.dtype), values.shape, PACKED, bz2.compress(values.tobytes()))


def unpacked(array: Array) -> NDArray[np.generic]:
    """Return the values of an array made by `packed`; never unpack more than its shape holds.

    Raises
    ------
    FederationError
        If the array is packed differently, or its data are not exactly one complete stream of as many values.
    """
    size = math.prod(array.shape)
    if array.stype != PACKED or array.dtype not in _OF_ONE_BYTE or min(array.shape, default=0) < 0:
        raise FederationError("an array is packed differently than agreed")
    stream = bz2.BZ2Decompressor()
    try:
        data = stream.decompress(array.data, size + 1)  # a stream of exactly `size` is read to its end and checksum
    except OSError:
        raise FederationError("an array's data are not a bzip2 stream") from None
    if len(data) != size or not stream.eof or stream.unused_data:
        raise FederationError("an array's data are not exactly the values of its shape")
    return np.frombuffer(data, array.dtype).reshape(array.shape)


def samples_to_record(samples: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Return synthetic samples as a record, each tensor in its dtype; 8-bit integers are packed."""
    values = {name: tensor.cpu().contiguous().numpy() for name, tensor in samples.items()}
    return ArrayRecord({name: packed(v) if v.dtype.name in _OF_ONE_BYTE else Array(v) for name, v in values.items()})


def samples_of(record: ArrayRecord) -> dict[str, torch.Tensor]:
    """Return the samples in a record made by `samples_to_record`.

    Raises
    ------
    FederationError
        As for `unpacked`.
    """
    return {
        name: torch.from_numpy((array.numpy() if array.stype != PACKED else unpacked(array)).copy())
        for name, array in record.items()
    }


def rules_of(method: Method, config: Settings, student: ArrayRecord) -> dict[str, Any]:
    """Return a method's rules for the record that it hands over: one `ArrayRule` per array, by name.

    Raises
    ------
    ConfigError
        If the function that returns them cannot be imported, or fails.
    """
    if not method.records:
        return {}
    try:
        return dict(pkgutil.resolve_name(method.records)(config, student))
    except Exception as error:  # noqa: BLE001 - third-party code may raise anything
        raise ConfigError(f"method {method.name}: records: {method.records} fails ({one_line(error)})") from None


def memory_to_records(memory: Memory) -> dict[str, ArrayRecord]:
    """Return a method's memory as plain records; arrays are packed later, when they leave."""
    return {
        name: _vector(kept)
        if name in _OF_WEIGHTS
        else ArrayRecord({k: Array(v.cpu().numpy()) for k, v in kept.items()})
        for name, kept in memory.items()
    }


def memory_of(content: RecordDict, student: Student, config: Settings) -> dict[str, dict[str, torch.Tensor]]:
    """Return a method's memory from a message to a hospital that trains `student`.

    This is every array record except the student, teachers, and the hashes of scans to leave out.

    Raises
    ------
    FederationError
        If a record with one value per weight does not fit the student, or samples are packed differently than agreed or
        would need more memory than those of all sites: a few packed bytes could otherwise fill any memory.
    """
    records = {n: r for n, r in content.array_records.items() if n not in (ARRAYS, LEFT_OUT) and not is_teacher(n)}
    channels = max(len(config.data.modalities), len(config.data.regions))
    samples = config.replay.shared_maps * channels * math.prod(student.spatial_shape)
    sent = [part for part in get_method(config.method.name).parts if part.hands_over in records]
    agreed = [rule for part in sent for rule in rules_of(part, config, weights_to_record(student)).values()]
    of_one = max([samples, *(max(rule.most, 1) * math.prod(rule.shape) for rule in agreed)])
    room = len(config.sites) * of_one
    if any(
        math.prod(array.shape) > room for name, r in records.items() if name not in _OF_WEIGHTS for array in r.values()
    ):
        raise FederationError("the coordinator sent more samples than all sites together share")
    return {
        name: _by_name(record, dict(student.named_parameters())) if name in _OF_WEIGHTS else samples_of(record)
        for name, record in records.items()
    }


def bytes_by_kind(content: RecordDict) -> dict[str, int]:
    """Return the payload bytes of each record of a message, keyed by the record's name."""
    return {name: _size(record) for name, record in content.items()}


def _size(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    try:
        return record.count_bytes()
    except (ValueError, IndexError):  # Flower cannot count empty values; such replies are refused anyway
        return 0
