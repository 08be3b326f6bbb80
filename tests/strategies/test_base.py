"""The strategies' own decisions; that Flower carries them out is tested in tests/e2e on the real engine."""

import pytest

from fedserdiff.config import make_config
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy
from strategies.fine_tune import FineTune
from strategies.pooled import Pooled
from strategies.ser_diff import SerDiff

SITES = ["north", "east", "west"]


def strategy(kind: type[ArrivalStrategy], **changes: object) -> ArrivalStrategy:
    return kind(make_config("smoke", **changes), RunEvents())


def test_arriving_sites_train_alone_and_cumulative_ones_together() -> None:
    alone = strategy(FineTune).stages(SITES)
    assert [s.participants for s in alone] == [("north",), ("east",), ("west",)]
    together = strategy(FineTune, participation="cumulative").stages(SITES)
    assert [s.participants for s in together] == [("north",), ("north", "east"), ("north", "east", "west")]
    assert [s.name for s in together] == SITES


def test_pooling_is_one_stage_as_long_as_the_stream() -> None:
    (stage,) = strategy(Pooled).stages(SITES)
    assert stage.length == len(SITES)
    assert len(stage.participants) == 1


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, [(1, 2)]),
        ({"teacher": "latest"}, [(1, 2), (2, 2), (3, 2)]),
        ({"shared_error_maps": "none", "teacher": "latest"}, []),
    ],
)
def test_maps_are_asked_for_when_a_student_becomes_a_teacher(
    changes: dict[str, object], asked: list[tuple[int, int]]
) -> None:
    ser_diff = strategy(SerDiff, rounds=2, **changes)
    plan = ser_diff.stages(SITES)
    seen = []
    for stage in (1, 2, 3):
        ser_diff.begin_stage(stage, plan[stage - 1], {SITES[stage - 1]: stage})
        seen += [(stage, r) for r in (1, 2) if ser_diff.wants_maps(r)]
    assert seen == asked
