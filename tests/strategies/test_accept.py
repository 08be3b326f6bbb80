"""The coordinator checks each reply by the rules that the hospitals agreed to, and goes on."""

import bz2
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from traffic import SECRET, answer, change, handed_over, honest, plain, values_of

from fedserdiff import wire
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from strategies.faults import in_words
from strategies.stage_runner import StageRunner
from strategies.stream import Stage

TRAIN = MessageType.TRAIN
SITES = ("north", "east", "west")
NODES = {11: "north", 12: "east", 13: "west"}
SENT = ArrayRecord({"weights": Array(np.linspace(-1, 1, 50, dtype=np.float32))})


class Heard(RunEvents):
    def __init__(self) -> None:
        self.failed: list[str] = []
        self.losses: list[dict[str, float]] = []

    def sites_failed(self, what: str) -> None:
        self.failed.append(what)

    def round_finished(self, losses: Any) -> None:
        self.losses.append(dict(losses))


def runner(method: str = "fine-tune", **changes: Any) -> StageRunner:
    """A coordinator in stage 2, of three participants, that has sent them its student."""
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES)
    begun = StageRunner(make_settings("smoke", changes, method=method, sites=sites), Heard())
    begun.begin_stage(2, Stage("east", SITES), {site: node for node, site in NODES.items()})
    return begun


def half(change: float) -> float:
    """A change as it is when it has crossed the wire."""
    return float(np.float16(change))


def heard(begun: StageRunner) -> Heard:
    assert isinstance(begun.events, Heard)
    return begun.events


def trained(begun: StageRunner, node: int, by: float = 0.01, cases: int = 10) -> Message:
    content = honest(TRAIN, begun.config, SENT)
    content[wire.ARRAYS] = change(SENT, by)
    content.metric_records[wire.METRICS][wire.WEIGHT] = cases
    return answer(node, TRAIN, content)


def spoilt(begun: StageRunner, node: int, spoil: Callable[[RecordDict], object]) -> Message:
    message = trained(begun, node)
    spoil(message.content)
    return message


def weights(value: float) -> Callable[[RecordDict], object]:
    return lambda content: content.array_records[wire.ARRAYS].update({"weights": Array(np.full(50, value, np.float16))})


def metric(name: str, value: Any) -> Callable[[RecordDict], object]:
    return lambda content: content.metric_records[wire.METRICS].update({name: value})


def more(name: str, record: ArrayRecord | MetricRecord | ConfigRecord) -> Callable[[RecordDict], object]:
    return lambda content: content.update({name: record})


SPOILT = {
    "weights that are no numbers": (weights(np.nan), "arrays: weights: not finite"),
    "infinite weights": (weights(np.inf), "arrays: weights: not finite"),
    "a whole student": (more(wire.ARRAYS, SENT), "arrays: weights: another shape or type than agreed"),
    "a loss that is no number": (metric("loss-segmentation", np.nan), "metrics: loss-segmentation: not finite"),
    "weights far off": (weights(6e4), "arrays: the weights changed by more than max_update_rms = 0.1"),
    "all the say": (metric(wire.WEIGHT, 10**9), "metrics: num-examples: out of range"),
    "no say": (metric(wire.WEIGHT, 0), "metrics: num-examples: out of range"),
    "a say below none": (metric(wire.WEIGHT, -10), "metrics: num-examples: out of range"),
    "text for a name": (metric(SECRET, 0.5), "metrics: names differ from those agreed"),
    "another record": (more(SECRET, MetricRecord()), "records other than arrays, metrics"),
    "text": (more("why", ConfigRecord({"why": SECRET})), "records other than arrays, metrics"),
    "an empty text": (more("why", ConfigRecord({"why": ""})), "records other than arrays, metrics"),
    "an empty list": (more("why", ConfigRecord({"why": []})), "records other than arrays, metrics"),
    "no student": (lambda content: content.pop(wire.ARRAYS), "records other than arrays, metrics"),
    "nothing": (lambda content: content.clear(), "records other than arrays, metrics"),
}


@pytest.mark.parametrize(("spoil", "why"), SPOILT.values(), ids=SPOILT)
def test_a_reply_that_was_not_agreed_is_dropped_by_its_sites_name_and_the_others_are_kept(
    spoil: Callable[[RecordDict], object], why: str
) -> None:
    begun = runner()
    replies = [trained(begun, 11), spoilt(begun, 12, spoil), trained(begun, 13)]
    accepted, failed = begun.inbox.accept(replies, TRAIN, SENT, NODES)
    assert set(accepted) == {"north", "west"}
    whole = ArrayRecord({"weights": Array(SENT["weights"].numpy() + np.float32(half(0.01)))})
    assert accepted["north"] == RecordDict({**replies[0].content, wire.ARRAYS: whole})
    assert in_words(failed) == f"east sent what was not agreed, dropped ({why})"


def test_weights_of_another_kind_than_were_sent_are_dropped() -> None:
    begun = runner()
    for other in (np.zeros(51, np.float16), np.zeros((5, 10), np.float16), np.zeros(50), np.zeros(50, np.int8)):
        record = ArrayRecord({"weights": Array(other)})
        accepted, failed = begun.inbox.accept([spoilt(begun, 12, more(wire.ARRAYS, record))], TRAIN, SENT, {12: "east"})
        assert accepted == {}
        assert (
            in_words(failed)
            == "east sent what was not agreed, dropped (arrays: weights: another shape or type than agreed)"
        )


def test_faults_and_silence_are_told_beside_what_was_dropped_and_no_text_of_a_site_is() -> None:
    begun = runner()
    replies = [answer(11, TRAIN, Error(int(Fault.MEMORY), SECRET)), spoilt(begun, 12, more(SECRET, MetricRecord()))]
    accepted, failed = begun.inbox.accept(replies, TRAIN, SENT, NODES)
    assert accepted == {}
    assert in_words(failed) == (
        "north answered MEMORY (code 212), its own log says why; west did not answer in time; "
        "east sent what was not agreed, dropped (records other than arrays, metrics)"
    )
    strange, blocked = answer(11, TRAIN, Error(7, SECRET)), answer(12, TRAIN, Error(int(Fault.BLOCKED), SECRET))
    _, failed = begun.inbox.accept([strange, blocked], TRAIN, SENT, {11: "north", 12: "east"})
    assert in_words(failed) == (
        "north failed outside its own app (code 7); "
        "east answered BLOCKED (code 214), its own guard held the answer back; its ledger says why"
    )


def test_a_full_gpu_is_told_with_the_setting_to_lower_and_by_how_much() -> None:
    begun = runner(**{"training.batch_size": 6})
    _, failed = begun.inbox.accept(
        [answer(11, TRAIN, Error(int(Fault.GPU_MEMORY), SECRET))], TRAIN, SENT, {11: "north"}
    )
    assert in_words(failed) == (
        "north answered GPU_MEMORY (code 217), its GPU's memory is not large enough: lower training.samples_a_pass "
        "(now 0, all of a step's) to 3 or less (its hospital.log has the figures)"
    )


def test_the_bytes_of_every_reply_that_came_are_counted() -> None:
    begun = runner()
    replies = [trained(begun, 11), spoilt(begun, 12, weights(np.nan)), answer(13, TRAIN, Error(int(Fault.DATA)))]
    begun.inbox.accept(replies, TRAIN, SENT, NODES)
    size = {wire.ARRAYS: len("weights") + 128 + 50 * 2, wire.METRICS: len("loss-segmentation" + "num-examples") + 2 * 8}
    assert begun.inbox.bytes_out == {"north": size, "east": size}
    begun.inbox.accept(replies[:1], TRAIN, SENT, {11: "north"})
    assert begun.inbox.bytes_out == {"north": {kind: 2 * n for kind, n in size.items()}, "east": size}


def test_what_a_site_called_a_record_that_was_not_agreed_is_written_nowhere() -> None:
    """Bytes by kind of record go to results.json and to the report: a name that a site made up may hold anything."""
    begun = runner()
    scan = ArrayRecord({"scan": Array(np.zeros(1000, np.int8))})
    begun.inbox.accept([spoilt(begun, 12, more(SECRET, scan))], TRAIN, SENT, {12: "east"})
    assert sum(begun.inbox.bytes_out["east"].values()) > 1000
    assert SECRET not in begun.inbox.bytes_out["east"]


@pytest.mark.parametrize("message_type", [wire.CONSOLIDATE, MessageType.EVALUATE])
def test_maps_and_scores_are_checked_on_arrival_too(message_type: str) -> None:
    begun = runner(method="ser-diff")
    good, bad = (honest(message_type, begun.config, SENT) for _ in range(2))
    if message_type == wire.CONSOLIDATE:
        bad = handed_over(begun.config, SENT, begun.config.replay.shared_maps + 1)
    else:
        bad.metric_records[wire.METRICS]["refined.dice.wt"] = 1.01
    replies = [answer(11, message_type, good), answer(12, message_type, bad)]
    accepted, failed = begun.inbox.accept(replies, message_type, SENT, {11: "north", 12: "east"})
    assert accepted == {"north": plain(good)}
    assert in_words(failed).startswith("east sent what was not agreed, dropped (")


def test_maps_that_another_build_packed_otherwise_are_heard_and_counted_as_they_came() -> None:
    begun = runner(method="ser-diff")
    content = honest(wire.CONSOLIDATE, begun.config, SENT)
    maps = content.array_records[wire.ERROR_MAPS]["maps"]
    other = bz2.compress(bz2.decompress(maps.data), 1)
    assert other != maps.data
    content.array_records[wire.ERROR_MAPS]["maps"] = Array(maps.dtype, maps.shape, maps.stype, other)
    accepted, failed = begun.inbox.accept(
        [answer(11, wire.CONSOLIDATE, content)], wire.CONSOLIDATE, SENT, {11: "north"}
    )
    assert failed == {}
    assert np.array_equal(accepted["north"].array_records[wire.ERROR_MAPS]["maps"].numpy(), values_of(maps))
    assert begun.inbox.bytes_out["north"] == {wire.ERROR_MAPS: len("maps") + len(other)}


def test_a_round_goes_on_with_those_whose_students_were_agreed_and_says_who_failed() -> None:
    begun = runner(**{"machine.site_failure": "go-on"})
    replies = [trained(begun, 13, by=0.04, cases=30), spoilt(begun, 11, weights(np.nan)), trained(begun, 12, cases=10)]
    arrays, _, _ = begun.aggregate(SENT, replies)
    expected = SENT["weights"].numpy() + (30 * half(0.04) + 10 * half(0.01)) / 40
    np.testing.assert_allclose(arrays["weights"].numpy(), expected, rtol=1e-5)
    assert heard(begun).failed == ["north sent what was not agreed, dropped (arrays: weights: not finite)"]
    assert heard(begun).losses == [{"segmentation": 0.5}]


def test_a_round_fails_by_the_site_that_failed_where_the_policy_is_not_to_go_on() -> None:
    begun = runner()
    begun.server_round = 2
    replies = [trained(begun, 13), answer(11, TRAIN, Error(int(Fault.DATA), SECRET)), trained(begun, 12)]
    with pytest.raises(FederationError, match=r"^stage 2 \(east\), round 2: north answered DATA \(code 210\)"):
        begun.aggregate(SENT, replies)
    assert heard(begun).failed == []
    assert heard(begun).losses == []


def test_a_round_in_which_all_is_well_tells_of_no_failure() -> None:
    begun = runner()
    arrays, _, _ = begun.aggregate(SENT, [trained(begun, node) for node in NODES])
    np.testing.assert_allclose(arrays["weights"].numpy(), SENT["weights"].numpy() + half(0.01), rtol=1e-5)
    assert heard(begun).failed == []


def test_a_round_without_one_student_that_was_agreed_fails_by_stage_and_site() -> None:
    begun = runner()
    begun.server_round = 3
    replies = [spoilt(begun, 12, weights(np.nan)), answer(13, TRAIN, Error(int(Fault.DIVERGED), SECRET))]
    with pytest.raises(FederationError, match=r"^stage 2 \(east\), round 3: no student came back: ") as caught:
        begun.aggregate(SENT, replies)
    for site in ("east sent what was not agreed", "west answered DIVERGED", "north did not answer in time"):
        assert site in str(caught.value)
    assert "λ may be too large" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert heard(begun).losses == []


def test_a_site_whose_reply_was_dropped_is_sent_the_teacher_again() -> None:
    begun = runner(method="ser-diff", **{"machine.site_failure": "go-on"})
    begun.stream.teacher, begun.stream.teacher_stage = SENT, 1
    begun.aggregate(SENT, [trained(begun, 11), spoilt(begun, 12, weights(np.nan)), trained(begun, 13)])
    assert [wire.teacher_record(1) in begun.stream.records_for(site, 2) for site in SITES] == [False, True, False]


def test_sites_that_tell_unlike_losses_are_averaged_all_the_same() -> None:
    """A loss that a stage may lack is agreed either way: Flower's own check of replies must not end the run."""
    begun = runner(method="ser-diff", **{"machine.site_failure": "go-on"})
    lacking = spoilt(begun, 12, lambda content: content.metric_records[wire.METRICS].pop("loss-distillation"))
    arrays, _, _ = begun.aggregate(SENT, [trained(begun, 11, by=0.03), lacking])
    np.testing.assert_allclose(
        arrays["weights"].numpy(), SENT["weights"].numpy() + (half(0.03) + half(0.01)) / 2, rtol=1e-5
    )
