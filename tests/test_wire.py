"""Students and methods' memories on the wire: one vector for each record with a value per weight."""

import bz2
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from students import lively_student
from traffic import packed

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import FederationError
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

CONFIG = make_settings("smoke", sites=tuple(Site(name, "brats2021", "") for name in ("north", "east")))


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
        lambda vector: {"method.teacher": vector},
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


def test_a_student_that_was_trained_is_told_by_its_change_to_within_half_a_step_of_float16(student: Student) -> None:
    """Half a step is 1/2048 of the change for normal numbers, and at most 3e-8 for smaller ones."""
    received = wire.weights_to_record(student)
    before = received["weights"].numpy().copy()
    trained = lively_student(CONFIG)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draws) ** 3)
    change = wire.change_to_record(trained, received)
    (vector,) = change.values()
    assert (vector.dtype, vector.shape) == ("float16", before.shape)
    found = wire.changed(received, change)
    assert found["weights"].dtype == "float32"
    after = wire.weights_to_record(trained)["weights"].numpy().astype(float)
    lost = np.abs(found["weights"].numpy() - after)
    assert (lost <= np.abs(after - before) / 2048 + 3e-8 + np.abs(after) * 2.0**-22).all()
    assert 0 < lost.max() < 1e-3
    np.testing.assert_array_equal(received["weights"].numpy(), before)
    wire.load_weights(new_student(CONFIG), found)


def test_a_student_that_did_not_change_comes_back_as_it_was_sent(student: Student) -> None:
    received = wire.weights_to_record(student)
    change = wire.change_to_record(student, received)
    assert not change["weights"].numpy().any()
    assert wire.changed(received, change) == received


def test_each_weights_importance_comes_back_as_its_own(student: Student) -> None:
    fisher = {name: torch.rand(weight.shape) for name, weight in student.named_parameters()}
    records = wire.memory_to_records({wire.FISHER: fisher})
    returned = wire.memory_of(RecordDict(dict(records)), student, CONFIG)
    assert list(returned) == [wire.FISHER]
    assert list(returned[wire.FISHER]) == list(fisher)
    assert all(torch.equal(values, fisher[name]) for name, values in returned[wire.FISHER].items())


def test_a_memory_is_every_array_record_but_student_teacher_and_hashes_each_tensor_in_its_type(
    student: Student,
) -> None:
    kept = {
        wire.ERROR_MAPS: {"maps": torch.randint(-15, 16, (4, 3, 16, 24), dtype=torch.int8)},
        wire.SYNTHETIC_IMAGES: {
            "images": torch.rand(1, 4, 16, 24).half(),
            "masks": torch.ones(1, 3, 16, 24, dtype=torch.uint8),
        },
    }
    weights = wire.weights_to_record(student)
    message = RecordDict(
        {wire.ARRAYS: weights, wire.teacher_record(3): weights, wire.CONFIG: ConfigRecord({"stage": 1})}
    )
    message[wire.LEFT_OUT] = ArrayRecord({"hashes": Array(np.zeros((1, 32), np.uint8))})
    message.update(wire.memory_to_records(kept))
    returned = wire.memory_of(message, student, CONFIG)
    assert {name: set(tensors) for name, tensors in returned.items()} == {name: set(t) for name, t in kept.items()}
    for name, tensors in kept.items():
        for key, tensor in tensors.items():
            assert returned[name][key].dtype == tensor.dtype
            assert torch.equal(returned[name][key], tensor)


def test_importance_of_other_weights_is_refused(student: Student) -> None:
    few = RecordDict({wire.FISHER: ArrayRecord({"weights": Array(np.ones(7, np.float32))})})
    with pytest.raises(FederationError, match="do not fit"):
        wire.memory_of(few, student, CONFIG)


def test_whole_numbers_travel_as_one_bzip2_stream_of_their_values_and_others_plain() -> None:
    maps = np.random.default_rng(0).integers(-15, 16, (2, 3, 4, 5), np.int8)
    samples = {"images": torch.rand(2, 4).half(), "maps": torch.from_numpy(maps).transpose(0, 3)}  # not in C order
    record = wire.samples_to_record(samples)
    assert (record["images"].stype, record["maps"].stype) == ("numpy.ndarray", "bz2")
    assert (record["maps"].dtype, record["maps"].shape) == ("int8", (5, 3, 4, 2))
    assert bz2.decompress(record["maps"].data) == maps.swapaxes(0, 3).tobytes()
    returned = wire.samples_of(record)
    assert all(torch.equal(returned[name], values) for name, values in samples.items())


ZEROS = packed(np.zeros((2, 3, 16, 24), np.int8))
BANKS = {
    "more samples than all sites share": packed(np.zeros((1 + 2 * 4 * 4, 16, 24), np.int8)),
    "a bomb by its shape": Array("int8", (10**6, 10**6), "bz2", bz2.compress(bytes(10**7))),
    "a bomb by its data": Array("int8", (2, 3, 16, 24), "bz2", bz2.compress(bytes(10**7))),
    "a shape less than nothing": Array("int8", (-1, 1), "bz2", bz2.compress(bytes(10**7))),
    "data of another shape": Array("int8", (2, 3, 16, 25), "bz2", ZEROS.data),
    "half the data": Array("int8", (2, 3, 16, 24), "bz2", ZEROS.data[: len(ZEROS.data) // 2]),
    "data and more": Array("int8", (2, 3, 16, 24), "bz2", ZEROS.data + b"more"),
    "no stream": Array("int8", (2, 3, 16, 24), "bz2", b"BZ"),
    "other data": Array("int8", (2, 3, 16, 24), "bz2", b"other data"),
    "another type": Array("float32", (2, 3, 16, 6), "bz2", ZEROS.data),
    "no type": Array("patient", (2, 3, 16, 24), "bz2", ZEROS.data),
}


@pytest.mark.parametrize("maps", BANKS.values(), ids=BANKS)
def test_a_bank_that_would_fill_memory_or_is_not_what_it_says_is_refused(student: Student, maps: Array) -> None:
    with pytest.raises(FederationError):
        wire.memory_of(RecordDict({wire.ERROR_MAPS: ArrayRecord({"maps": maps})}), student, CONFIG)
    fits = packed(np.zeros((2 * 4, 3, 16, 24), np.int8))
    assert wire.memory_of(RecordDict({wire.ERROR_MAPS: ArrayRecord({"maps": fits})}), student, CONFIG)
