"""The records that may cross the wire: their names, and how tensors become records and back."""

from collections.abc import Mapping
from enum import IntEnum

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import FederationError

# Coordinator to hospital
ARRAYS = "arrays"  # the student's weights; also the hospital's reply
TEACHER = "teacher"  # the teacher's weights, only when they changed
CONFIG = "config"  # stage, server-round, length, teacher-stage; in a query the experiment's fingerprint and a salt
LEFT_OUT = "left-out"  # which of the hospital's scans an earlier one brought: salted hashes, and their salt

# Both ways: what a method keeps of earlier hospitals, named by both of its halves. A hospital hands it over when it
# consolidates a stage; the coordinator sends what it made of it with each later round.
ERROR_MAPS = "error-maps"  # synthetic maps, int8
SYNTHETIC_IMAGES = "synthetic-images"  # generated slices or volumes with masks
FISHER = "fisher"  # importance of each weight

# Hospital to coordinator
METRICS = "metrics"  # named scalars
SITE = "site"  # answer to the discovery query: the site's number in order of arrival, and rounded counts of its cases
SCANS = "scan-hashes"  # beside it: a salted hash of each scan, unless the experiment allows overlap

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

Memory = Mapping[str, Mapping[str, torch.Tensor]]
"""What a method keeps of earlier hospitals: tensors by name, by the name of their record."""

_PACKED = "weights"  # the one array of a record that holds a value for each weight
_LEVELS = 127  # int8 levels either side of 0


class Fault(IntEnum):
    """What a hospital answers when it cannot answer: a code, never the text of an exception."""

    DATA = 210  # its scans cannot be used
    PROTOCOL = 211  # the message asks for what cannot be done
    MEMORY = 212
    INTERNAL = 213
    BLOCKED = 214  # it had an answer, which is not of the kind that may leave
    EXPERIMENT = 215  # it was given another experiment, or other software
    DIVERGED = 216  # a weight or a loss is not finite


def weights_to_record(student: Student) -> ArrayRecord:
    """Return a student's weights as a record of one vector, float32, in the order of its state.

    One, because Flower sends each array as objects of their own: over TLS the 308 arrays of profile ``laptop`` took
    half a minute a message, the vector takes a second.
    """
    return _packed(student.state_dict())


def load_weights(student: Student, record: ArrayRecord) -> None:
    """Load a record made by `weights_to_record` into a student of the same architecture.

    Raises
    ------
    FederationError
        Where names or numbers differ: the two sides run different configurations.
    """
    student.load_state_dict(_unpacked(record, student.state_dict()))


def _packed(tensors: Mapping[str, torch.Tensor]) -> ArrayRecord:
    return ArrayRecord({_PACKED: Array(torch.cat([t.detach().cpu().reshape(-1) for t in tensors.values()]).numpy())})


def _unpacked(record: ArrayRecord, like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    sizes = [tensor.numel() for tensor in like.values()]
    vector = torch.from_numpy(record[_PACKED].numpy().copy()) if set(record) == {_PACKED} else torch.empty(0)
    if vector.shape != (sum(sizes),) or vector.dtype != torch.float32:
        raise FederationError("weights do not fit this configuration's student")
    parts = vector.split(sizes)
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def to_levels(maps: torch.Tensor) -> torch.Tensor:
    """Return error maps in [−1, 1] as they travel: int8, 127 levels either side of 0."""
    return (maps.clamp(-1, 1) * _LEVELS).round().to(torch.int8)


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Return int8 levels as error maps, float32 in [−1, 1]."""
    return levels.float() / _LEVELS


def memory_to_records(memory: Memory) -> dict[str, ArrayRecord]:
    """Return a method's memory as records, each tensor in its own dtype."""
    return {
        name: _packed(tensors)
        if name == FISHER
        else ArrayRecord({key: Array(tensor.cpu().contiguous().numpy()) for key, tensor in tensors.items()})
        for name, tensors in memory.items()
    }


def memory_of(content: RecordDict, student: Student) -> dict[str, dict[str, torch.Tensor]]:
    """Return the memory in a message to a hospital that trains `student`.

    That is every array record but the student, the teacher, and the hashes of scans to leave out.

    Raises
    ------
    FederationError
        Where the importance of weights does not fit the student.
    """
    return {
        name: _unpacked(record, dict(student.named_parameters()))
        if name == FISHER
        else {key: torch.from_numpy(array.numpy().copy()) for key, array in record.items()}
        for name, record in content.array_records.items()
        if name not in (ARRAYS, TEACHER, LEFT_OUT)
    }


def bytes_by_kind(content: RecordDict) -> dict[str, int]:
    """Return the payload bytes of each record of a message, keyed by the record's name."""
    return {name: _size(record) for name, record in content.items()}


def _size(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    try:
        return record.count_bytes()
    except (ValueError, IndexError):  # Flower cannot count nothing, such as an empty list; no such reply is accepted
        return 0
