"""Students and what a method keeps, as they travel: one vector for what has a value for each weight."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from students import lively_student

from fedserdiff import wire
from fedserdiff.config import make_config
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import FederationError

CONFIG = make_config("smoke")


@pytest.fixture(scope="module")
def student() -> Student:
    return lively_student(CONFIG)


def test_a_student_comes_back_weight_for_weight(student: Student) -> None:
    other = new_student(CONFIG)
    record = wire.weights_to_record(student)
    wire.load_weights(other, record)
    assert all(torch.equal(values, other.state_dict()[name]) for name, values in student.state_dict().items())
    (vector,) = record.values()
    assert (vector.dtype, vector.shape) == ("float32", (sum(w.numel() for w in student.state_dict().values()),))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda vector: {"weights": vector[:-1]},
        lambda vector: {"weights": np.append(vector, np.float32(0))},
        lambda vector: {"weights": vector.reshape(2, -1)},
        lambda vector: {"weights": vector.astype(np.float64)},
        lambda vector: {"teacher": vector},
        lambda vector: {"weights": vector, "more": vector},
        lambda vector: {},
    ],
    ids=["one less", "one more", "two axes", "float64", "another name", "one array more", "empty"],
)
def test_weights_of_another_configuration_are_refused_and_change_nothing(
    student: Student, spoil: Callable[[NDArray[np.float32]], dict[str, NDArray[np.generic]]]
) -> None:
    vector = wire.weights_to_record(student)["weights"].numpy()
    record = ArrayRecord({name: Array(values) for name, values in spoil(vector).items()})
    other = new_student(CONFIG)
    with pytest.raises(FederationError, match="do not fit this configuration's student"):
        wire.load_weights(other, record)
    before = new_student(CONFIG).state_dict()
    assert all(torch.equal(values, before[name]) for name, values in other.state_dict().items())


def test_each_weights_importance_comes_back_as_its_own(student: Student) -> None:
    fisher = {name: torch.rand(weight.shape) for name, weight in student.named_parameters()}
    records = wire.memory_to_records({wire.FISHER: fisher})
    returned = wire.memory_of(RecordDict(dict(records)), student)
    assert list(returned) == [wire.FISHER]
    assert list(returned[wire.FISHER]) == list(fisher)
    assert all(torch.equal(values, fisher[name]) for name, values in returned[wire.FISHER].items())


def test_a_memory_is_every_array_record_but_student_teacher_and_hashes_each_tensor_in_its_type(
    student: Student,
) -> None:
    kept = {
        wire.ERROR_MAPS: {"maps": torch.full((1, 3, 16, 24), -127, dtype=torch.int8)},
        wire.SYNTHETIC_IMAGES: {
            "images": torch.rand(1, 4, 16, 24).half(),
            "masks": torch.ones(1, 3, 16, 24, dtype=torch.uint8),
        },
    }
    weights = wire.weights_to_record(student)
    message = RecordDict({wire.ARRAYS: weights, wire.TEACHER: weights, wire.CONFIG: ConfigRecord({"stage": 1})})
    message[wire.LEFT_OUT] = ArrayRecord({"hashes": Array(np.zeros((1, 32), np.uint8))})
    message.update(wire.memory_to_records(kept))
    returned = wire.memory_of(message, student)
    assert {name: set(tensors) for name, tensors in returned.items()} == {name: set(t) for name, t in kept.items()}
    for name, tensors in kept.items():
        for key, tensor in tensors.items():
            assert returned[name][key].dtype == tensor.dtype
            assert torch.equal(returned[name][key], tensor)


def test_importance_of_other_weights_is_refused(student: Student) -> None:
    few = RecordDict({wire.FISHER: ArrayRecord({"weights": Array(np.ones(7, np.float32))})})
    with pytest.raises(FederationError, match="do not fit"):
        wire.memory_of(few, student)
