"""Methods' decisions about the stream; tests/e2e tests on the real engine that Flower carries them out."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from fedserdiff.settings.sources import make_settings
from strategies.distill import Distill
from strategies.ewc import Ewc
from strategies.fine_tune import FineTune
from strategies.image_replay import ImageReplay
from strategies.local import Local
from strategies.pooled import Pooled
from strategies.ser_diff import SerDiff
from strategies.stream import ArrivalStream

SITES = ["north", "east", "west"]


def stream(kind: type[ArrivalStream], **changes: object) -> ArrivalStream:
    return kind(make_settings("smoke", {"method": "ser-diff", **changes}))


def test_arriving_sites_train_alone_and_cumulative_ones_together() -> None:
    alone = stream(FineTune).stages(SITES)
    assert [s.participants for s in alone] == [("north",), ("east",), ("west",)]
    together = stream(FineTune, **{"training.participation": "cumulative"}).stages(SITES)
    assert [s.participants for s in together] == [("north",), ("north", "east"), ("north", "east", "west")]
    assert [s.name for s in together] == SITES


def test_pooling_is_one_stage_as_long_as_the_stream() -> None:
    (stage,) = stream(Pooled).stages(SITES)
    assert stage.length == len(SITES)
    assert len(stage.participants) == 1


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, [1]),
        ({"method.teacher": "latest"}, [1, 2, 3]),
        ({"method.shared_error_maps": "none", "method.teacher": "latest"}, []),
    ],
)
def test_maps_are_asked_for_when_a_student_becomes_a_teacher(changes: dict[str, object], asked: list[int]) -> None:
    ser_diff = stream(SerDiff, **changes, **{"training.rounds": 2})
    seen = []
    for stage, plan in enumerate(ser_diff.stages(SITES), 1):
        ser_diff.begin_stage(stage, plan)
        seen += [stage] if ser_diff.consolidates() else []
    assert seen == asked


@pytest.mark.parametrize(
    ("kind", "settings", "asked"),
    [
        (Ewc, {"method": "ewc"}, [1, 2, 3]),
        (ImageReplay, {"method": "image-replay"}, [1]),
        (ImageReplay, {"method": "image-replay", "method.teacher": "latest"}, [1, 2, 3]),
        (Distill, {"method": "distill", "method.teacher": "latest"}, []),
        (FineTune, {"method": "fine-tune"}, []),
        (Local, {"method": "local"}, []),
    ],
)
def test_hospitals_hand_over_what_a_method_keeps_and_no_more(
    kind: type[ArrivalStream], settings: dict[str, str], asked: list[int]
) -> None:
    method = stream(kind, **settings)
    seen = []
    for stage, plan in enumerate(method.stages(SITES), 1):
        method.begin_stage(stage, plan)
        seen += [stage] if method.consolidates() else []
    assert seen == asked


def test_a_hospital_alone_starts_from_the_untrained_student_and_others_from_the_standing_one() -> None:
    untrained, standing = (ArrayRecord({"w": Array(np.full(2, value, np.float32))}) for value in (0, 1))
    for stage, plan in enumerate(stream(Local).stages(SITES), 1):
        for kind, start in ((Local, untrained), (FineTune, standing), (SerDiff, standing), (Ewc, standing)):
            method = stream(kind)
            method.begin_stage(stage, plan)
            assert method.initial(untrained, standing) is start


def test_a_site_uses_the_last_student_or_where_there_is_no_federation_its_own() -> None:
    assert stream(Local).deployed(SITES) == [1, 2, 3]
    assert stream(SerDiff).deployed(SITES) == [3, 3, 3]
    assert stream(Pooled).deployed(SITES) == [1, 1, 1]


def test_local_sites_train_alone_whatever_the_participation() -> None:
    stages = stream(Local, **{"training.participation": "cumulative"}).stages(SITES)
    assert [s.participants for s in stages] == [("north",), ("east",), ("west",)]
