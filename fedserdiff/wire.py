"""The records that may cross the wire: their names, and how tensors become records and back."""

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
ARRAYS = "arrays"  # the student's weights; in the hospital's reply, how a round changed them
TEACHER = "teacher"  # kind of the records of teachers' weights, each sent once: see `teacher_record`
CONFIG = "config"  # stage, server-round, length, teacher-stage, records; in a query an experiment's fingerprint, a salt
LEFT_OUT = "left-out"  # which of the hospital's scans an earlier one brought: salted hashes, and their salt

# Both ways: what a method keeps of earlier hospitals, named by both of its halves. A hospital hands it over when it
# consolidates a stage; the coordinator sends what it made of it with each later round. Others' methods name their own.
ERROR_MAPS = "error-maps"  # synthetic maps, int8, packed
SYNTHETIC_IMAGES = "synthetic-images"  # generated slices or volumes, plain, with masks, packed
LESION_MOMENTS = "lesion-moments"  # what a hospital's lesions look like: moments over patients, float32
FISHER = "fisher"  # importance of each weight
CONTROL = "control"  # SCAFFOLD's control variate; from a hospital how it changed, with each round: float32

# Hospital to coordinator
METRICS = "metrics"  # named scalars
SITE = "site"  # answer to the discovery query: the site's number in order of arrival, and rounded counts of its cases
SCANS = "scan-hashes"  # beside it: a salted hash of each scan, unless the experiment allows overlap
HISTOGRAMS = "histograms"  # of its training patients, before anybody trains

HASHES, SALT = "hashes", "salt"
"""Arrays of the records above, uint8 of shape (n, `HASH_BYTES`) and (`SALT_BYTES`,); a query's salt is plain bytes."""

SALT_BYTES = 16
HASH_BYTES = 32

WEIGHT = "num-examples"
"""The metric by which the coordinator weighs a hospital's students and scores."""

COUNTS_ROUNDED_TO = 5
"""Case counts are told as multiples of this: exact enrolment figures stay in the hospital."""

CONSOLIDATE = "train.consolidate"
"""Message type that asks a hospital for what its method keeps of a stage that has ended."""

STATISTICS = "query.statistics"
"""Message type that asks a hospital for histograms of its training patients."""

Memory = Mapping[str, Mapping[str, torch.Tensor]]
"""What a method keeps of earlier hospitals: tensors by name, by the name of their record."""

LEVELS = 15
"""Of an error map either side of 0: it travels in steps of 1/15 (our choice, docs/explanation/method.md says why)."""

PACKED = "bz2"
"""Flower's `stype` of an array whose data are its values, in C order, as one bzip2 stream."""

_OF_WEIGHTS = (FISHER, CONTROL)  # records that hold a value for each weight
_VECTOR = "weights"  # the one array of a record that holds a value for each weight
_OF_ONE_BYTE = ("int8", "uint8")  # types that travel packed: they have no byte order


def teacher_record(stage: int) -> str:
    """Return the name of the record that holds the student of a stage, frozen as a teacher."""
    return f"{TEACHER}-{stage}"


def is_teacher(record: str) -> bool:
    """Say whether a record of this name holds a teacher."""
    return record.startswith(f"{TEACHER}-")


class Fault(IntEnum):
    """What a hospital answers when it cannot answer: a code, never the text of an exception."""

    DATA = 210  # its scans cannot be used
    PROTOCOL = 211  # the message asks for what cannot be done
    MEMORY = 212  # the machine's, which others may fill for a time
    INTERNAL = 213
    BLOCKED = 214  # it had an answer, which is not of the kind that may leave
    EXPERIMENT = 215  # it was given another experiment, or other software
    GPU_MEMORY = 217  # a GPU's, which the same message fills again
    DIVERGED = 216  # a loss or a weight's change is not finite, or the change is beyond float16
    RECORDS = 218  # what it keeps for itself, such as its adapter, is missing or damaged


def weights_to_record(student: Student) -> ArrayRecord:
    """Return a student's weights as a record of one vector, float32, in the order of its parameters.

    Nothing else of it crosses the wire: what more a network may hold is the same each time it is built
    (`fedserdiff.networks.coarse`).

    One, because Flower sends each array as objects of their own: over TLS the 308 arrays of profile ``laptop`` took
    half a minute a message, the vector takes a second.
    """
    return _vector(dict(student.named_parameters()))


def load_weights(student: Student, record: ArrayRecord) -> None:
    """Load a record made by `weights_to_record` into a student of the same architecture.

    Raises
    ------
    FederationError
        If names or numbers differ: the two sides run different configurations.
    """
    student.load_state_dict(_by_name(record, dict(student.named_parameters())), strict=False)


def change_to_record(student: Student, received: ArrayRecord) -> ArrayRecord:
    """Return by how much a student's weights differ from those received, float16, otherwise as `weights_to_record`.

    Half the bytes of the weights (our choice). Most changes are smaller than their weights, so rounding them costs less
    than rounding the weights would; docs/explanation/method.md says how much. A change beyond float16's ±65504 becomes
    infinite, and is no more let out than one that is.
    """
    (trained,), (before,) = weights_to_record(student).values(), received.values()
    change = torch.from_numpy(trained.numpy() - before.numpy())
    return ArrayRecord({_VECTOR: Array(change.half().numpy())})


def changed(sent: ArrayRecord, change: ArrayRecord) -> ArrayRecord:
    """Return the weights that were sent, float32, plus a change made by `change_to_record`."""
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
    """Return error maps in [−1, 1] as they travel: int8, `LEVELS` either side of 0."""
    return (maps.clamp(-1, 1) * LEVELS).round().to(torch.int8)


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Return int8 levels as error maps, float32 in [−1, 1]."""
    return levels.float() / LEVELS


def packed(values: NDArray[np.generic]) -> Array:
    """Return int8 or uint8 values as an array that is compressed; its type and shape stay to be read."""
    return Array(str(values.dtype), values.shape, PACKED, bz2.compress(values.tobytes()))


def unpacked(array: Array) -> NDArray[np.generic]:
    """Return the values of an array made by `packed`; no more is ever unpacked than its shape has room for.

    Raises
    ------
    FederationError
        If it is packed otherwise, or its data are not one whole stream of exactly as many values, and nothing else.
    """
    size = math.prod(array.shape)
    if array.stype != PACKED or array.dtype not in _OF_ONE_BYTE or min(array.shape, default=0) < 0:
        raise FederationError("an array is packed in another way than agreed")
    stream = bz2.BZ2Decompressor()
    try:
        data = stream.decompress(array.data, size + 1)  # a stream of exactly `size` is read to its end and checksum
    except OSError:
        raise FederationError("an array's data are no bzip2 stream") from None
    if len(data) != size or not stream.eof or stream.unused_data:
        raise FederationError("an array's data are not exactly the values of its shape")
    return np.frombuffer(data, array.dtype).reshape(array.shape)


def samples_to_record(samples: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Return synthetic samples as a record, each tensor in its own dtype, those of whole numbers packed."""
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
    """Return what a method agrees on of the record that it hands over: an `ArrayRule` an array, by name.

    Raises
    ------
    ConfigError
        If the function that says it cannot be imported, or fails.
    """
    if not method.records:
        return {}
    try:
        return dict(pkgutil.resolve_name(method.records)(config, student))
    except Exception as error:  # noqa: BLE001 - others' code may raise anything
        raise ConfigError(f"method {method.name}: records: {method.records} fails ({one_line(error)})") from None


def memory_to_records(memory: Memory) -> dict[str, ArrayRecord]:
    """Return a method's memory as plain records: what travels packed is packed as it leaves."""
    return {
        name: _vector(kept)
        if name in _OF_WEIGHTS
        else ArrayRecord({k: Array(v.cpu().numpy()) for k, v in kept.items()})
        for name, kept in memory.items()
    }


def memory_of(content: RecordDict, student: Student, config: Settings) -> dict[str, dict[str, torch.Tensor]]:
    """Return the memory in a message to a hospital that trains `student`.

    That is every array record but the student, teachers, and the hashes of scans to leave out.

    Raises
    ------
    FederationError
        If the importance of weights does not fit the student, or samples are packed in another way than agreed or
        would take more room than those of all sites: few bytes can be packed to fill any memory.
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
    except (ValueError, IndexError):  # Flower cannot count nothing, such as an empty list; no such reply is accepted
        return 0
