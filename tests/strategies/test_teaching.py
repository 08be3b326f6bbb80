"""Records sent with the student: teachers, importance of weights, banks."""

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from traffic import packed, plain, values_of

from fedserdiff import wire
from fedserdiff.settings.sources import make_settings
from strategies.distill import Distill
from strategies.ewc import Ewc
from strategies.image_replay import ImageReplay
from strategies.ser_diff import SerDiff
from strategies.ser_diff_plus import SerDiffPlus
from strategies.stream import ArrivalStream, Stage

SITES = ("north", "east", "west")
NOTHING = RecordDict()


def stream(kind: type[ArrivalStream], **changes: object) -> ArrivalStream:
    return kind(make_settings("smoke", {"method": "ser-diff", **changes}))


def weights(value: float) -> ArrayRecord:
    return ArrayRecord({"a": Array(np.full((2, 3), value, np.float32)), "b": Array(np.full(4, value, np.float32))})


def fisher(**values: object) -> RecordDict:
    return RecordDict({wire.FISHER: ArrayRecord({k: Array(np.asarray(v, np.float32)) for k, v in values.items()})})


def maps(value: int) -> RecordDict:
    return RecordDict({wire.ERROR_MAPS: ArrayRecord({"maps": Array(np.full((2, 3, 16, 24), value, np.int8))})})


def begin(method: ArrivalStream, stage: int, *participants: str) -> None:
    method.begin_stage(stage, Stage(participants[-1], participants))


def teacher_in(method: ArrivalStream, site: str, server_round: int = 1) -> float | None:
    """The value of the teacher's weights that a site is sent, if it is."""
    records = method.records_for(site, server_round)
    sent = [record["a"].numpy()[0, 0] for name, record in records.items() if wire.is_teacher(name)]
    return float(sent[0]) if sent else None


@pytest.mark.parametrize("kind", [SerDiff, Distill])
def test_the_first_student_teaches_for_ever_and_reaches_each_site_once(kind: type[ArrivalStream]) -> None:
    method = stream(kind)
    begin(method, 1, "north")
    assert method.records_for("north", 1) == {}
    method.on_fit_reply("north", NOTHING)
    method.end_stage(weights(1))
    begin(method, 2, "north", "east")
    assert method.teacher_stage == 1
    assert [teacher_in(method, site) for site in ("north", "east")] == [1, 1]
    method.on_fit_reply("east", NOTHING)
    assert [teacher_in(method, site, 2) for site in ("north", "east")] == [1, None], "north has not answered"
    method.on_fit_reply("north", NOTHING)
    method.end_stage(weights(2))
    begin(method, 3, *SITES)
    assert [teacher_in(method, site) for site in SITES] == [None, None, 1]
    assert method.teacher_stage == 1


@pytest.mark.parametrize(
    ("kind", "name"), [(SerDiff, "ser-diff"), (Distill, "distill"), (SerDiffPlus, "ser-diff-plus")]
)
def test_the_latest_student_teaches_the_next_stage_and_travels_again(kind: type[ArrivalStream], name: str) -> None:
    method = stream(kind, method=name, **{"method.teacher": "latest"})
    for stage in (1, 2, 3):
        begin(method, stage, "north")
        assert teacher_in(method, "north") == (None if stage == 1 else stage - 1)
        method.on_fit_reply("north", NOTHING)
        assert teacher_in(method, "north", 2) is None
        method.end_stage(weights(stage))
        assert method.teacher_stage == stage


def test_the_bank_travels_with_every_round_to_every_site() -> None:
    method = stream(SerDiff)
    begin(method, 1, "north")
    method.keep("north", maps(7))
    method.end_stage(weights(1))
    begin(method, 2, "east")
    for server_round in (1, 2):
        records = method.records_for("east", server_round)
        assert values_of(records[wire.ERROR_MAPS]["maps"]).tolist() == np.full((2, 3, 16, 24), 7).tolist()
        method.on_fit_reply("east", NOTHING)


def test_the_bank_of_ser_diff_plus_holds_the_latest_stage_alone() -> None:
    method = stream(SerDiffPlus, method="ser-diff-plus", **{"method.shared_error_maps": "null"})
    for stage, sites in enumerate((("north",), ("north", "east")), 1):
        begin(method, stage, *sites)
        for site in sites:
            method.keep(site, maps(stage))
        method.end_stage(weights(stage))
    begin(method, 3, "west")
    sent = values_of(method.records_for("west", 1)[wire.ERROR_MAPS]["maps"])
    assert sent.tolist() == np.full((4, 3, 16, 24), 2).tolist(), "two sites' maps of stage 2, none of stage 1"


def test_hospitals_share_error_maps_where_their_method_does_unless_told_otherwise() -> None:
    for kind, name, asked in ((SerDiff, "ser-diff", True), (SerDiffPlus, "ser-diff-plus", False)):
        method = stream(kind, method=name)
        begin(method, 1, "north")
        assert method.consolidates() is asked
        told = stream(kind, method=name, **{"method.shared_error_maps": "none" if asked else "null"})
        begin(told, 1, "north")
        assert told.consolidates() is not asked


def test_a_bank_travels_as_it_was_handed_over_from_the_first_sample_on() -> None:
    draws = np.random.default_rng(0)
    images = {
        "images": Array(draws.normal(size=(2, 4, 16, 24)).astype(np.float16)),
        "masks": packed(np.ones((2, 3, 16, 24), np.uint8)),
    }
    kinds = {
        ImageReplay: (wire.SYNTHETIC_IMAGES, images),
        SerDiff: (wire.ERROR_MAPS, {"maps": packed(draws.integers(-15, 16, (2, 3, 16, 24), np.int8))}),
    }
    for kind, (name, arrays) in kinds.items():
        method = stream(kind)
        assert method.records_for("east", 1) == {}
        handed_over = RecordDict({name: ArrayRecord(arrays)})
        method.keep("north", plain(handed_over))
        assert method.records_for("east", 1) == handed_over.array_records


@pytest.mark.parametrize("teacher", ["first", "latest"])
def test_weights_are_anchored_to_the_last_student_by_the_sum_of_earlier_stages(teacher: str) -> None:
    method = stream(Ewc, **{"method.teacher": teacher})
    begin(method, 1, "north")
    assert method.records_for("north", 1) == {}
    method.keep("north", fisher(a=np.arange(6).reshape(2, 3), b=[1, 2, 3, 4]))
    method.end_stage(weights(1))
    begin(method, 2, "east")
    assert teacher_in(method, "east") == 1
    method.keep("east", fisher(a=np.full((2, 3), 10), b=[0.5, 0, 0, 0]))
    method.end_stage(weights(2))
    begin(method, 3, "west")
    assert teacher_in(method, "west") == 2
    assert method.teacher_stage == 2
    for server_round in (1, 2):
        sent = method.records_for("west", server_round)[wire.FISHER]
        assert sent["a"].numpy().tolist() == [[10, 11, 12], [13, 14, 15]]
        assert sent["b"].numpy().tolist() == [1.5, 2, 3, 4]
        assert {str(array.numpy().dtype) for array in sent.values()} == {"float32"}
        method.on_fit_reply("west", NOTHING)


def test_sites_of_one_stage_share_its_fisher_information() -> None:
    method = stream(Ewc, **{"training.participation": "cumulative"})
    begin(method, 1, "north")
    none = np.zeros((2, 3))
    method.keep("north", fisher(a=none, b=[1, 1, 1, 1]))
    method.end_stage(weights(1))
    begin(method, 2, "north", "east", "west")
    method.keep("north", fisher(a=none, b=[2, 0, 0, 0]))
    method.keep("east", fisher(a=none, b=[4, 6, 0, 0]))  # the west failed: the mean is of those that answered
    method.end_stage(weights(2))
    assert method.records_for("east", 1)[wire.FISHER]["b"].numpy().tolist() == [4, 4, 1, 1]


def test_what_is_kept_of_weights_importance_does_not_grow_with_the_stream() -> None:
    """And is, to the last bit, the sum of stages' means as float32 has it, one stage after the other."""
    draws = np.random.default_rng(5)
    method = stream(Ewc, **{"training.participation": "cumulative"})
    total = np.zeros(4, np.float32)
    sizes = set()
    for stage in range(1, 41):
        begin(method, stage, *SITES)
        told = (draws.normal(size=(3, 4)) ** 2 * 10.0 ** draws.uniform(-6, 3)).astype(np.float32)
        for site, values in zip(SITES, told, strict=True):
            method.keep(site, fisher(a=np.ones((2, 3)), b=values))
        method.end_stage(weights(stage))
        total = total + told.mean(0)
        assert method.records_for("north", 1)[wire.FISHER]["b"].numpy().tobytes() == total.tobytes()
        kept = io.BytesIO()
        torch.save(method.state_dict()["fisher"], kept)
        sizes.add(len(kept.getvalue()))
    assert len(sizes) == 1


def test_a_stage_whose_end_was_lost_counts_once() -> None:
    """A coordinator that ended after some had handed over theirs goes on with the stage, and asks them all again."""
    method = stream(Ewc)
    begin(method, 1, "north")
    method.keep("north", fisher(a=np.ones((2, 3)), b=[1, 2, 3, 4]))
    method.end_stage(weights(1))
    begin(method, 2, "east", "west")
    method.keep("east", fisher(a=np.ones((2, 3)), b=[8, 8, 8, 8]))
    again = stream(Ewc)
    again.load_state_dict(method.state_dict())
    for lived in (method, again):  # in the same process, or in another
        begin(lived, 2, "east", "west")
        lived.keep("east", fisher(a=np.ones((2, 3)), b=[8, 8, 8, 8]))
        lived.keep("west", fisher(a=np.ones((2, 3)), b=[0, 2, 4, 6]))
        lived.end_stage(weights(2))
        assert lived.records_for("north", 1)[wire.FISHER]["b"].numpy().tolist() == [5, 7, 9, 11]
