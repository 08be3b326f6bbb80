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
CONFIG = "config"  # stage, server-round, length, teacher-stage

# Both ways: what a method keeps of earlier hospitals, named by both of its halves. A hospital hands it over when it
# consolidates a stage; the coordinator sends what it made of it with each later round.
ERROR_MAPS = "error-maps"  # synthetic maps, int8
SYNTHETIC_IMAGES = "synthetic-images"  # generated slices or volumes with masks
FISHER = "fisher"  # importance of each weight

# Hospital to coordinator
METRICS = "metrics"  # named scalars
SITE = "site"  # answer to the discovery query

WEIGHT = "num-examples"
"""The metric by which the coordinator weighs a hospital's students and scores."""

CONSOLIDATE = "train.consolidate"
"""Message type that asks a hospital for what its method keeps of a stage that has ended."""

Memory = Mapping[str, Mapping[str, torch.Tensor]]
"""What a method keeps of earlier hospitals: tensors by name, by the name of their record."""

_LEVELS = 127  # int8 levels either side of 0


class Fault(IntEnum):
    """What a hospital answers when it cannot answer: a code, never the text of an exception."""

    DATA = 210
    PROTOCOL = 211
    MEMORY = 212
    INTERNAL = 213


def weights_to_record(student: Student) -> ArrayRecord:
    """Return a student's weights as a record, in the order of its state."""
    return ArrayRecord({name: Array(value.cpu().numpy()) for name, value in student.state_dict().items()})


def load_weights(student: Student, record: ArrayRecord) -> None:
    """Load a record made by `weights_to_record` into a student of the same architecture.

    Raises
    ------
    FederationError
        Where names or shapes differ: the two sides run different configurations.
    """
    state = {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}
    try:
        student.load_state_dict(state)
    except RuntimeError as error:
        raise FederationError(f"weights do not fit this configuration's student: {error}") from None


def to_levels(maps: torch.Tensor) -> torch.Tensor:
    """Return error maps in [−1, 1] as they travel: int8, 127 levels either side of 0."""
    return (maps.clamp(-1, 1) * _LEVELS).round().to(torch.int8)


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Return int8 levels as error maps, float32 in [−1, 1]."""
    return levels.float() / _LEVELS


def memory_to_records(memory: Memory) -> dict[str, ArrayRecord]:
    """Return a method's memory as records, each tensor in its own dtype."""
    return {
        name: ArrayRecord({key: Array(tensor.cpu().contiguous().numpy()) for key, tensor in tensors.items()})
        for name, tensors in memory.items()
    }


def memory_of(content: RecordDict) -> dict[str, dict[str, torch.Tensor]]:
    """Return the memory in a message: every array record but student and teacher."""
    return {
        name: {key: torch.from_numpy(array.numpy().copy()) for key, array in record.items()}
        for name, record in content.array_records.items()
        if name not in (ARRAYS, TEACHER)
    }


def bytes_by_kind(content: RecordDict) -> dict[str, int]:
    """Return the payload bytes of each record of a message, keyed by the record's name."""
    return {
        name: record.count_bytes()
        for name, record in content.items()
        if isinstance(record, ArrayRecord | MetricRecord | ConfigRecord)
    }
