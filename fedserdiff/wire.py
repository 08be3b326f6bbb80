"""The records that may cross the wire: their names, and how tensors become records and back."""

from enum import IntEnum

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import FederationError

# Coordinator to hospital
ARRAYS = "arrays"  # the student's weights; also the hospital's reply
TEACHER = "teacher"  # the teacher's weights, only when they changed
ERROR_BANK = "error-bank"  # maps that the coordinator keeps
CONFIG = "config"  # stage, server-round, length, teacher-stage, share-maps

# Hospital to coordinator
ERROR_MAPS = "error-maps"  # synthetic maps, int8
METRICS = "metrics"  # named scalars
SITE = "site"  # answer to the discovery query

WEIGHT = "num-examples"
"""The metric by which the coordinator weighs a hospital's students and scores."""

_MAPS = "maps"
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


def maps_to_record(maps: torch.Tensor) -> ArrayRecord:
    """Return error maps in [−1, 1], shape (N, 3, *grid), as int8: 127 levels either side of 0."""
    return levels_to_record((maps.clamp(-1, 1) * _LEVELS).round().to(torch.int8).cpu().numpy())


def record_to_maps(record: ArrayRecord) -> torch.Tensor:
    """Return the error maps of a record made by `maps_to_record`, float32 in [−1, 1]. Raises as `map_levels`."""
    return torch.from_numpy(map_levels(record).astype(np.float32)) / _LEVELS


def levels_to_record(levels: NDArray[np.int8]) -> ArrayRecord:
    """Return error maps given as int8 levels, shape (N, 3, *grid), as a record."""
    return ArrayRecord({_MAPS: Array(np.ascontiguousarray(levels))})


def map_levels(record: ArrayRecord) -> NDArray[np.int8]:
    """Return the int8 levels, shape (N, 3, *grid), of an error-map record.

    Raises
    ------
    FederationError
        Where the record holds anything but one int8 array.
    """
    if set(record) != {_MAPS}:
        raise FederationError(f"an error-map record holds {sorted(record)}, not one array called {_MAPS!r}")
    levels = record[_MAPS].numpy()
    if levels.dtype != np.int8:
        raise FederationError(f"error maps are {levels.dtype}, not int8")
    return levels


def bytes_by_kind(content: RecordDict) -> dict[str, int]:
    """Return the payload bytes of each record of a message, keyed by the record's name."""
    return {
        name: record.count_bytes()
        for name, record in content.items()
        if isinstance(record, ArrayRecord | MetricRecord | ConfigRecord)
    }
