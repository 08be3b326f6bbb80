"""Aggregation of a round's students, compared with Flower's strategy of that name and with NumPy."""

import inspect
import io
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from traffic import answer

from fedserdiff import wire
from fedserdiff.errors import ConfigError
from fedserdiff.methods.method import Strategy
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from strategies.aggregation import Aggregator

NAMES = get_args(Strategy)
CASES = (10, 35, 5, 20, 15)
SHAPES: dict[str, tuple[int, ...]] = {"conv": (4, 3, 3), "bias": (7,), "scale": (1,)}
ROUNDS = 4

Values = NDArray[np.float64]


def student(seed: int, spread: float = 1.0) -> ArrayRecord:
    draws = np.random.default_rng(seed)
    return ArrayRecord({k: Array((spread * draws.normal(size=s)).astype(np.float32)) for k, s in SHAPES.items()})


def replies(standing: ArrayRecord, server_round: int) -> list[Message]:
    """Five hospitals' answers to a student; every round they pull elsewhere."""
    return [reply(place, standing, 100 * server_round + place, cases) for place, cases in enumerate(CASES)]


def reply(place: int, standing: ArrayRecord, seed: int, cases: int) -> Message:
    change = student(seed, 0.02)
    arrays = {name: Array(array.numpy() + change[name].numpy()) for name, array in standing.items()}
    metrics = MetricRecord({"loss-segmentation": 0.1 * (place + 1), wire.WEIGHT: cases})
    return answer(place, MessageType.TRAIN, RecordDict({wire.ARRAYS: ArrayRecord(arrays), wire.METRICS: metrics}))


def settings(name: str, **arguments: float) -> Settings:
    changes = {f"aggregation.{argument}": value for argument, value in arguments.items()}
    return make_settings("smoke", {"aggregation.strategy": name, **changes})


def rounds(aggregator: Aggregator, standing: ArrayRecord, numbers: Sequence[int]) -> ArrayRecord:
    """The student after these rounds of a stage."""
    for server_round in numbers:
        standing, _ = aggregator.aggregate(server_round, standing, replies(standing, server_round))
    return standing


def flat(record: ArrayRecord) -> Values:
    return np.concatenate([array.numpy().astype(np.float64).ravel() for array in record.values()])


def told(standing: ArrayRecord, server_round: int) -> Values:
    """By hospital, the weights that come back from a round, of shape (hospitals, weights)."""
    sent = replies(standing, server_round)
    return np.stack([flat(message.content.array_records[wire.ARRAYS]) for message in sent])


def test_the_default_is_flowers_average_to_the_last_bit() -> None:
    standing = student(0)
    ours, losses = Aggregator(make_settings("smoke")).aggregate(1, standing, replies(standing, 1))
    theirs, metrics = FedAvg(weighted_by_key=wire.WEIGHT).aggregate_train(1, replies(standing, 1))
    assert ours == theirs
    assert metrics is not None
    assert losses == {"segmentation": metrics["loss-segmentation"]}
    np.testing.assert_allclose(flat(ours), np.average(told(standing, 1), axis=0, weights=CASES), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rounds_one_by_one_are_flowers_own_loop(name: str) -> None:
    """One object of Flower's over all rounds, given each round's student as its own loop gives it."""
    arguments = {"server_momentum": 0.7, "server_learning_rate": 0.5} if name == "FedAvgM" else {}
    if "eta" in inspect.signature(getattr(flower, name)).parameters:
        arguments = {"eta": 0.03}
    ours, aggregator = student(0), Aggregator(settings(name, **arguments))
    whole = getattr(flower, name)(weighted_by_key=wire.WEIGHT, fraction_train=0.0, **arguments)
    grid: Any = None  # of which a strategy that samples no node asks nothing
    for server_round in range(1, ROUNDS + 1):
        sent = ours
        list(whole.configure_train(server_round, sent, ConfigRecord(), grid))
        ours, _ = aggregator.aggregate(server_round, sent, replies(sent, server_round))
        theirs, _ = whole.aggregate_train(server_round, replies(sent, server_round))
        assert {k: a.numpy().tobytes() for k, a in ours.items()} == {
            k: np.asarray(a.numpy(), np.float32).tobytes() for k, a in theirs.items()
        }
        assert {array.dtype for array in ours.values()} == {"float32"}


class Adam:
    """Adaptive rounds by hand: Reddi et al., arXiv 2003.00295, algorithm 2; `second` is what they differ in."""

    def __init__(self, second: Callable[[Values, Values], Values], beta_1: float, step: Callable[[int], float]) -> None:
        self.second, self.beta_1, self.step = second, beta_1, step
        self.m: Values = np.zeros(1)
        self.v: Values = np.zeros(1)

    def __call__(self, server_round: int, standing: Values, weights: Values) -> Values:
        change = np.average(weights, axis=0, weights=CASES) - standing
        self.m = self.beta_1 * self.m + (1 - self.beta_1) * change
        self.v = self.second(self.v, change**2)
        return standing + self.step(server_round) * self.m / (np.sqrt(self.v) + 0.001)


class Momentum:
    """SGD with momentum on the mean change, as Hsu et al. have it, arXiv 1909.06335."""

    def __init__(self) -> None:
        self.kept: Values = np.zeros(1)

    def __call__(self, server_round: int, standing: Values, weights: Values) -> Values:
        self.kept = 0.7 * self.kept + np.average(weights, axis=0, weights=CASES) - standing
        return standing + 0.5 * self.kept


BY_HAND: dict[str, tuple[dict[str, float], Callable[[int, Values, Values], Values]]] = {
    "FedAvg": ({}, lambda number, standing, weights: np.average(weights, axis=0, weights=CASES)),
    "FedAvgM": ({"server_momentum": 0.7, "server_learning_rate": 0.5}, Momentum()),
    "FedAdagrad": ({"eta": 0.03}, Adam(lambda v, square: v + square, 0.0, lambda number: 0.03)),
    "FedAdam": (
        {"eta": 0.03, "beta_1": 0.8, "beta_2": 0.9},
        Adam(
            lambda v, square: 0.9 * v + 0.1 * square,
            0.8,
            lambda number: 0.03 * (1 - 0.9 ** (number + 1)) ** 0.5 / (1 - 0.8 ** (number + 1)),
        ),
    ),
    "FedYogi": (
        {"eta": 0.03, "beta_1": 0.8, "beta_2": 0.9},
        Adam(lambda v, square: v - 0.1 * square * np.sign(v - square), 0.8, lambda number: 0.03),
    ),
    "FedTrimmedAvg": ({}, lambda number, standing, weights: np.sort(weights, axis=0)[1:-1].mean(0)),
    "FedMedian": ({}, lambda number, standing, weights: np.sort(weights, axis=0)[2]),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_strategy_moves_the_weights_as_computed_by_hand(name: str) -> None:
    arguments, by_hand = BY_HAND[name]
    aggregator, standing = Aggregator(settings(name, **arguments)), student(0)
    for server_round in (1, 2, 3):
        expected = by_hand(server_round, flat(standing), told(standing, server_round))
        moved, _ = aggregator.aggregate(server_round, standing, replies(standing, server_round))
        np.testing.assert_allclose(flat(moved) - flat(standing), expected - flat(standing), rtol=1e-3, atol=1e-6)
        assert np.abs(flat(moved) - flat(standing)).max() > 1e-3
        standing = moved


def test_more_hospitals_are_trimmed_by_a_larger_share() -> None:
    standing = student(0)
    moved, _ = Aggregator(settings("FedTrimmedAvg", beta=0.45)).aggregate(1, standing, replies(standing, 1))
    np.testing.assert_allclose(flat(moved), np.median(told(standing, 1), axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_lone_hospital_is_averaged_by_each_strategy(name: str) -> None:
    """So it is in a stream where the arriving site trains alone."""
    standing = student(0)
    alone = reply(0, standing, 7, 10)
    sent = flat(alone.content.array_records[wire.ARRAYS])
    moved, losses = Aggregator(settings(name)).aggregate(1, standing, [alone])
    assert losses == {"segmentation": 0.1}
    assert np.isfinite(flat(moved)).all()
    if name in ("FedAvg", "FedAvgM", "FedTrimmedAvg", "FedMedian"):
        np.testing.assert_allclose(flat(moved), sent, rtol=1e-6)


def again(before: Aggregator, name: str, **arguments: float) -> Aggregator:
    """Another process's aggregator, which goes on with the state that was written."""
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after = Aggregator(settings(name, **arguments))
    after.load_state_dict(torch.load(file, weights_only=True))
    return after


@pytest.mark.parametrize("name", NAMES)
def test_an_aggregation_that_is_gone_on_with_after_any_round_gives_the_same_bits(name: str) -> None:
    arguments = {"server_momentum": 0.7}
    lived, resumed = (Aggregator(settings(name, **arguments)) for _ in range(2))
    whole = parts = student(0)
    for aggregator in (lived, resumed):
        aggregator.begin_stage(student(0), 0.1)
    for server_round in range(1, ROUNDS + 1):
        whole, _ = lived.aggregate(server_round, whole, replies(whole, server_round))
        parts, _ = resumed.aggregate(server_round, parts, replies(parts, server_round))
        resumed = again(resumed, name, **arguments)
    assert whole == parts
    assert lived.end_stage(whole) == resumed.end_stage(parts) != whole


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
def test_moments_count_within_a_stage_and_are_forgotten_with_the_next(name: str) -> None:
    lived, fresh = (Aggregator(settings(name, server_momentum=0.7)) for _ in range(2))
    after = rounds(lived, student(0), (1, 2))
    forgetful = rounds(fresh, student(0), (1,))
    forgetful = rounds(Aggregator(settings(name, server_momentum=0.7)), forgetful, (2,))
    assert after != forgetful, "round 2 depends on round 1 by more than its student"
    assert rounds(lived, student(5), (1, 2)) == rounds(
        Aggregator(settings(name, server_momentum=0.7)), student(5), (1, 2)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_ends_with_a_share_of_the_student_that_it_began_with_and_rounds_are_as_without(name: str) -> None:
    began = student(0)
    free = rounds(Aggregator(settings(name)), began, (1, 2))
    held = Aggregator(settings(name))
    held.begin_stage(began, 0.25)
    trained = rounds(held, began, (1, 2))
    assert trained == free
    ended = held.end_stage(trained)
    np.testing.assert_allclose(flat(ended), 0.25 * flat(began) + 0.75 * flat(free), rtol=1e-5, atol=1e-7)
    assert [(name, array.dtype, array.shape) for name, array in ended.items()] == [
        (name, array.dtype, array.shape) for name, array in began.items()
    ]


def test_a_share_of_0_leaves_the_last_rounds_student_to_the_last_bit_whatever_was_kept_before() -> None:
    aggregator = Aggregator(settings("FedAvg"))
    aggregator.begin_stage(student(1), 0.5)
    aggregator.begin_stage(student(1), 0.0)
    assert aggregator.end_stage(student(0)) == student(0)


def test_momentum_starts_from_the_student_that_was_sent() -> None:
    aggregator, standing = Aggregator(settings("FedAvgM", server_momentum=0.7)), student(0)
    kept: Values = np.zeros(1)
    for server_round in (1, 2, 3):
        weights = told(standing, server_round)
        kept = 0.7 * kept + np.average(weights, axis=0, weights=CASES) - flat(standing)
        moved, _ = aggregator.aggregate(server_round, standing, replies(standing, server_round))
        np.testing.assert_allclose(flat(moved), flat(standing) + kept, atol=1e-6)
        standing = moved


@pytest.mark.parametrize("name", NAMES)
def test_what_came_back_stays_whole_for_a_method_that_keeps_it(name: str) -> None:
    standing = student(0)
    sent = replies(standing, 1)
    contents = [message.content for message in sent]
    Aggregator(settings(name)).aggregate(1, standing, sent)
    assert contents == [message.content for message in replies(standing, 1)]
    assert standing == student(0)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_of_flowers_is_a_setting_with_its_default(name: str) -> None:
    common = inspect.signature(FedAvg).parameters
    own = {k: p.default for k, p in inspect.signature(getattr(flower, name)).parameters.items() if k not in common}
    ours = make_settings("smoke").aggregation.model_dump()
    own.pop("eta_l", None)  # Flower computes nothing from it
    left_to_us = {"eta", "server_momentum"} & own.keys()  # 0.1 is far too much, and FedAvgM without momentum FedAvg
    assert own.keys() <= ours.keys()
    assert {k: ours[k] for k in own.keys() - left_to_us} == {k: own[k] for k in own.keys() - left_to_us}


def test_an_unknown_strategy_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        settings("FedProx")
    assert str(caught.value) == (
        "aggregation.strategy: 'FedProx' is not one of method, FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi, "
        "FedTrimmedAvg, FedMedian"
    )
