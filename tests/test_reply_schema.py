"""What each method's replies may hold, and which replies are refused; both sides use these rules."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray
from traffic import SECRET, TYPES, change, handed_over, hashes, honest, packed, plain

from fedserdiff import wire
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError, DivergedError, ReplyError
from fedserdiff.methods import METHODS
from fedserdiff.reply_schema import admit, check_update, reply_rules
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings

KEEPERS = ("ser-diff", "ewc", "mas", "image-replay", "der", "lesion-replay")
"""The methods that keep something of a stage."""

WEIGHTS = np.random.default_rng(1).normal(size=1000).astype(np.float32)
SENT = ArrayRecord({"weights": Array(WEIGHTS)})


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", changes)


def admitted(message_type: str, content: RecordDict, arrived: bool = False, **changes: Any) -> RecordDict:
    return admit(content, reply_rules(message_type, smoke(**changes), 0, SENT), arrived)


def arrays(**values: NDArray[np.generic]) -> ArrayRecord:
    """A record of arrays as they travel: bytes packed, the others plain."""
    return ArrayRecord({name: packed(v) if v.dtype.itemsize == 1 else Array(v) for name, v in values.items()})


def images(count: int = 2, dims: int = 2) -> NDArray[np.float16]:
    return np.full((count, 4, *(16, 24, 16)[:dims]), 0.5, np.float16)


def masks(count: int = 2, dims: int = 2) -> NDArray[np.uint8]:
    return np.ones((count, 3, *(16, 24, 16)[:dims]), np.uint8)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("message_type", TYPES)
def test_every_methods_honest_replies_are_admitted_as_they_are(message_type: str, method: str, dims: int) -> None:
    config = smoke(method=method, **{"data.spatial_dims": dims})
    if message_type == wire.CONSOLIDATE and method not in KEEPERS:
        with pytest.raises(ReplyError, match=r"^no reply to a train\.consolidate message was agreed$"):
            reply_rules(message_type, config, 0, SENT)
        return
    content = honest(message_type, config, SENT)
    found = admit(content, reply_rules(message_type, config, 0, SENT))
    assert found == content
    assert found is not content
    assert all(found[name] is not content[name] for name in content)


@pytest.mark.parametrize("message_type", [MessageType.TRAIN, wire.CONSOLIDATE])
def test_without_a_student_there_is_nothing_to_answer(message_type: str) -> None:
    with pytest.raises(ReplyError, match="was agreed"):
        reply_rules(message_type, smoke(), 0, None)


@pytest.mark.parametrize("message_type", ["train.everything", "evaluate.cases", "query.patients", "", "system"])
def test_no_reply_to_another_kind_of_message_is_agreed(message_type: str) -> None:
    with pytest.raises(ReplyError, match="was agreed"):
        reply_rules(message_type, smoke(), 0, SENT)


def test_where_no_maps_are_shared_none_is_handed_over() -> None:
    config = smoke(method="ser-diff", **{"method.shared_error_maps": "none"})
    with pytest.raises(ReplyError, match="was agreed"):
        reply_rules(wire.CONSOLIDATE, config, 0, SENT)
    for kept in ("null", "mri"):
        sharing = smoke(method="ser-diff", **{"method.shared_error_maps": kept})
        assert set(reply_rules(wire.CONSOLIDATE, sharing, 0, SENT)) == {wire.ERROR_MAPS}
    assert set(reply_rules(wire.CONSOLIDATE, config.replace(method="ewc"), 0, SENT)) == {wire.FISHER}, "nothing to do"


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_a_stage_does_not_have_may_be_missing_and_no_other(method: str) -> None:
    """In stage 1 there is no past to keep, so only segmentation is lost."""
    content = honest(MessageType.TRAIN, smoke(method=method), SENT)
    losses = content.metric_records[wire.METRICS]
    for name in [name for name in losses if name not in ("loss-segmentation", wire.WEIGHT)]:
        del losses[name]
        assert admitted(MessageType.TRAIN, content, method=method) == content
    for name in list(losses):
        lacking = RecordDict({**content, wire.METRICS: MetricRecord({k: v for k, v in losses.items() if k != name})})
        with pytest.raises(ReplyError, match="metrics: names differ from those agreed"):
            admitted(MessageType.TRAIN, lacking, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_of_another_method_is_turned_down(method: str) -> None:
    foreign = {term for other in METHODS.values() for term in other.terms} - set(METHODS[method].terms)
    assert foreign
    for term in foreign:
        content = honest(MessageType.TRAIN, smoke(method=method), SENT)
        content.metric_records[wire.METRICS][f"loss-{term}"] = 0.5
        with pytest.raises(ReplyError, match="metrics: names differ from those agreed"):
            admitted(MessageType.TRAIN, content, method=method)


BAD_FISHER = {
    "another shape": arrays(weights=np.ones((2, 500), np.float32)),
    "one weight less": arrays(weights=np.ones(999, np.float32)),
    "unknown weights": arrays(weights=np.ones(1000, np.float32), more=np.ones(4, np.float32)),
    "no weights": ArrayRecord(),
    "another name": arrays(importance=np.ones(1000, np.float32)),
    "float64": arrays(weights=np.ones(1000)),
    "negative": arrays(weights=np.append(np.ones(999, np.float32), np.float32(-1e-30))),
}
BAD_IMAGES = {
    "more images than masks": arrays(images=images(3), masks=masks(2)),
    "more masks than images": arrays(images=images(2), masks=masks(3)),
    "too many": arrays(images=images(5), masks=masks(5)),
    "none": arrays(images=images(0), masks=masks(0)),
    "images alone": arrays(images=images()),
    "masks alone": arrays(masks=masks()),
    "labels for masks": arrays(images=images(), masks=masks() * 2),
    "signed masks": arrays(images=images(), masks=masks().astype(np.int8)),
    "masks that are not of 0 and 1": arrays(images=images(), masks=np.full_like(masks(), 255)),
    "a finer type": arrays(images=images().astype(np.float32), masks=masks()),
    "volumes": arrays(images=images(dims=3), masks=masks(dims=3)),
    "the grid turned": arrays(images=images().swapaxes(2, 3), masks=masks().swapaxes(2, 3)),
}
BAD_MAPS = {
    "too many": arrays(maps=np.zeros((5, 3, 16, 24), np.int8)),
    "none": arrays(maps=np.zeros((0, 3, 16, 24), np.int8)),
    "another shape": arrays(maps=np.zeros((1, 3, 16, 25), np.int8)),
    "volumes": arrays(maps=np.zeros((1, 3, 16, 24, 16), np.int8)),
    "float": arrays(maps=np.zeros((1, 3, 16, 24), np.float32)),
    "another name": arrays(scan=np.zeros((1, 3, 16, 24), np.int8)),
    "one name more": arrays(maps=np.zeros((1, 3, 16, 24), np.int8), scan=np.zeros((1, 3, 16, 24), np.int8)),
    "a single number": arrays(maps=np.array(1, np.int8)),
    "below the least level": arrays(maps=np.full((1, 3, 16, 24), -16, np.int8)),
    "above the greatest level": arrays(maps=np.full((1, 3, 16, 24), 16, np.int8)),
    "empty": ArrayRecord(),
}
MOMENTS_SENT = {
    name: array.numpy()
    for name, array in handed_over(smoke(method="lesion-replay"), SENT).array_records[wire.LESION_MOMENTS].items()
}
BAD_MOMENTS = {
    "of two hospitals": arrays(**{name: np.repeat(values, 2, 0) for name, values in MOMENTS_SENT.items()}),
    "of five regions": arrays(**MOMENTS_SENT | {"means": np.zeros((1, 5, 4), np.float32)}),
    "twice as precise": arrays(**MOMENTS_SENT | {"means": np.zeros((1, 3, 4))}),
    "a mean out of range": arrays(**MOMENTS_SENT | {"means": np.full((1, 3, 4), 31, np.float32)}),
    "a negative count": arrays(**MOMENTS_SENT | {"patients": np.full((1, 1), -1, np.float32)}),
    "one number less": arrays(**{name: values for name, values in MOMENTS_SENT.items() if name != "size"}),
    "a scan besides": arrays(**MOMENTS_SENT, scan=np.zeros((1, 4, 16, 24), np.float32)),
}
BAD = [
    pytest.param(method, name, record, id=f"{name}: {what}")
    for method, name, bad in (
        ("ewc", wire.FISHER, BAD_FISHER),
        ("image-replay", wire.SYNTHETIC_IMAGES, BAD_IMAGES),
        ("ser-diff", wire.ERROR_MAPS, BAD_MAPS),
        ("lesion-replay", wire.LESION_MOMENTS, BAD_MOMENTS),
    )
    for what, record in bad.items()
]


@pytest.mark.parametrize(("method", "name", "record"), BAD)
def test_what_was_not_agreed_to_be_handed_over_is_turned_down(method: str, name: str, record: ArrayRecord) -> None:
    for arrived in (False, True):
        with pytest.raises(ReplyError, match=f"^{name}: ") as caught:
            admitted(wire.CONSOLIDATE, RecordDict({name: record}), arrived, method=method)
        assert not isinstance(caught.value, DivergedError)


@pytest.mark.parametrize("method", ["ser-diff", "image-replay"])
def test_samples_are_packed_as_they_leave_and_unpacked_as_they_arrive(method: str) -> None:
    travelling = handed_over(smoke(method=method), SENT)
    inside = plain(travelling)
    assert inside != travelling
    assert admitted(wire.CONSOLIDATE, inside, method=method) == travelling
    assert admitted(wire.CONSOLIDATE, travelling, arrived=True, method=method) == inside
    with pytest.raises(ReplyError, match="another encoding than agreed"):
        admitted(wire.CONSOLIDATE, inside, arrived=True, method=method)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("method", "name", "key"), [("ewc", wire.FISHER, "weights"), ("image-replay", wire.SYNTHETIC_IMAGES, "images")]
)
def test_what_is_handed_over_and_is_not_finite_has_diverged(method: str, name: str, key: str, value: float) -> None:
    content = handed_over(smoke(method=method), SENT)
    values = content.array_records[name][key].numpy().copy()
    values.flat[-1] = value
    content.array_records[name][key] = Array(values)
    with pytest.raises(DivergedError, match=f"^{name}: {key}: not finite$"):
        admitted(wire.CONSOLIDATE, content, method=method)


@pytest.mark.parametrize("method", ["ser-diff", "image-replay"])
def test_a_reply_of_as_many_samples_as_were_agreed_passes_and_of_one(method: str) -> None:
    config = smoke(method=method, **{"replay.shared_maps": 7})
    for samples in (1, 7):
        content = handed_over(config, SENT, samples)
        assert admitted(wire.CONSOLIDATE, content, method=method, **{"replay.shared_maps": 7}) == content
    with pytest.raises(ReplyError, match="not from 1 to 7 samples"):
        admitted(wire.CONSOLIDATE, handed_over(config, SENT, 8), method=method, **{"replay.shared_maps": 7})


def test_the_importance_of_a_real_students_weights_fits() -> None:
    """Importance is made from parameters, and a student's record from its state: both are vectors of one length."""
    config = smoke(method="ewc")
    student = new_student(config)
    fisher = {name: weight.detach().square() for name, weight in student.named_parameters()}
    content = RecordDict(dict(wire.memory_to_records({wire.FISHER: fisher})))
    rules = reply_rules(wire.CONSOLIDATE, config, 0, wire.weights_to_record(student))
    assert admit(content, rules) == content


@pytest.mark.parametrize("site", [0, 1, 5])
def test_a_site_introduces_itself_by_its_own_number(site: int) -> None:
    rules = reply_rules(MessageType.QUERY, smoke(), site, None)
    assert admit(honest(MessageType.QUERY, smoke(), SENT, site), rules)
    for other in {0, 1, 5} - {site}:
        with pytest.raises(ReplyError, match=r"^site: site: "):
            admit(honest(MessageType.QUERY, smoke(), SENT, other), rules)


def introduced(rows: NDArray[np.generic], **changes: Any) -> RecordDict:
    content = RecordDict({**honest(MessageType.QUERY, smoke(), SENT), wire.SCANS: ArrayRecord({"hashes": Array(rows)})})
    return admitted(MessageType.QUERY, content, **changes)


@pytest.mark.parametrize("rows", [5, 20, 1000])
def test_hashes_of_scans_are_told_by_fives(rows: int) -> None:
    told = hashes(3, rows)["hashes"].numpy()
    np.testing.assert_array_equal(introduced(told).array_records[wire.SCANS]["hashes"].numpy(), told)
    for exact in (rows - 1, rows - 4):
        with pytest.raises(ReplyError, match=r"^scan-hashes: hashes: not a multiple of 5 samples$"):
            introduced(told[:exact])


def test_hashes_that_differ_in_their_last_byte_alone_are_in_order_by_it() -> None:
    told = np.zeros((5, 32), np.uint8)
    told[:, 31] = [0, 1, 127, 128, 255]
    introduced(told)
    for other in ([0, 1, 128, 127, 255], [0, 1, 127, 127, 255]):
        told[:, 31] = other
        with pytest.raises(ReplyError, match=r"^scan-hashes: hashes: not in ascending order$"):
            introduced(told)


def test_hashes_of_more_scans_than_any_hospital_has_are_turned_down() -> None:
    told = np.zeros((100_005, 32), np.uint8)
    told[:, 28:] = np.arange(100_005, dtype=">u4").view(np.uint8).reshape(-1, 4)
    introduced(told[:100_000])
    with pytest.raises(ReplyError, match="not from 1 to 100000 samples"):
        introduced(told)


def test_where_overlap_is_allowed_an_introduction_holds_no_hashes() -> None:
    alone = honest(MessageType.QUERY, smoke(**{"data.allow_overlap": True}), SENT)
    assert set(alone) == {wire.SITE}
    assert admitted(MessageType.QUERY, alone, **{"data.allow_overlap": True}) == alone
    with pytest.raises(ReplyError, match=r"^records other than site$"):
        introduced(hashes(3)["hashes"].numpy(), **{"data.allow_overlap": True})


@pytest.mark.parametrize(
    ("message_type", "spoil"),
    [
        (MessageType.QUERY, lambda content: content.metric_records[wire.SITE].update({SECRET: 1})),
        (MessageType.TRAIN, lambda content: content.array_records[wire.ARRAYS].update(arrays(**{SECRET: WEIGHTS}))),
        (MessageType.EVALUATE, lambda content: content.update({SECRET: MetricRecord()})),
    ],
)
def test_why_a_reply_is_turned_down_repeats_nothing_of_it(
    message_type: str, spoil: Callable[[RecordDict], None]
) -> None:
    content = honest(message_type, smoke(), SENT)
    spoil(content)
    with pytest.raises(ReplyError) as caught:
        admitted(message_type, content)
    assert "patient" not in str(caught.value)


def test_what_is_admitted_no_longer_depends_on_what_was_given() -> None:
    content = honest(MessageType.TRAIN, smoke(), SENT)
    found = admitted(MessageType.TRAIN, content)
    content.array_records[wire.ARRAYS]["weights"].data = SECRET.encode()
    content.metric_records[wire.METRICS][SECRET] = 1.0
    assert found == honest(MessageType.TRAIN, smoke(), SENT)


def test_an_update_is_measured_over_all_weights_alike() -> None:
    """Arrays of unequal size, compared with the root mean square computed here."""
    draws = np.random.default_rng(3)
    changes = [(draws.normal(size=size) * scale).astype(np.float16) for size, scale in (((40, 50), 0.03), (7, 0.5))]
    content = RecordDict({wire.ARRAYS: arrays(**{str(i): values for i, values in enumerate(changes)})})
    rms = float(np.sqrt(np.mean(np.concatenate([c.ravel() for c in changes]).astype(float) ** 2)))
    assert 0.03 < rms < 0.1
    check_update(content, smoke(**{"privacy.max_update_rms": rms * (1 + 1e-9)}))
    with pytest.raises(ReplyError, match=r"^arrays: the weights changed by more than max_update_rms = 0\.0"):
        check_update(content, smoke(**{"privacy.max_update_rms": rms * (1 - 1e-9)}))


def test_an_update_of_exactly_the_limit_is_within_it() -> None:
    eighth = np.where(np.arange(64) % 2, np.float16(0.125), np.float16(-0.125))
    content = RecordDict({wire.ARRAYS: arrays(weights=eighth)})
    check_update(content, smoke(**{"privacy.max_update_rms": 0.125}))
    above = np.nextafter(np.float16(0.125), np.float16(1))
    content.array_records[wire.ARRAYS]["weights"] = Array(np.append(eighth[:-1], above))
    with pytest.raises(ReplyError, match="max_update_rms"):
        check_update(content, smoke(**{"privacy.max_update_rms": 0.125}))


def test_an_update_too_great_to_be_squared_in_half_precision_is_refused_not_lost() -> None:
    content = RecordDict({wire.ARRAYS: arrays(weights=np.full(64, np.finfo(np.float16).max))})
    with pytest.raises(ReplyError, match="max_update_rms"):
        check_update(content, smoke(**{"privacy.max_update_rms": 65503.0}))
    check_update(content, smoke(**{"privacy.max_update_rms": 65504.0}))


def test_noise_that_was_agreed_on_is_no_change_too_great() -> None:
    draws = np.random.default_rng(4).normal(size=50_000)
    content = RecordDict({wire.ARRAYS: arrays(weights=(0.6 * draws).astype(np.float16))})  # 2 · 3 · 0.1
    noise = {"privacy.dp_clip": 3.0, "privacy.dp_noise": 0.1}
    check_update(content, smoke(method="fine-tune", **{"privacy.max_update_rms": 0.1, **noise}))
    for changes in ({"privacy.dp_noise": 0.08}, {"privacy.dp_noise": 0.0}):
        with pytest.raises(ReplyError, match="max_update_rms"):
            check_update(content, smoke(method="fine-tune", **{"privacy.max_update_rms": 0.1, **noise, **changes}))


def test_what_holds_no_student_is_no_update() -> None:
    check_update(handed_over(smoke(), SENT), smoke(**{"privacy.max_update_rms": 1e-9}))
    check_update(honest(MessageType.EVALUATE, smoke(), SENT), smoke(**{"privacy.max_update_rms": 1e-9}))
    with pytest.raises(ReplyError):
        check_update(RecordDict({wire.ARRAYS: change(SENT)}), smoke(**{"privacy.max_update_rms": 1e-9}))


@pytest.mark.parametrize("by", [65_520.0, -1e9, np.inf])
def test_a_change_too_great_for_half_precision_has_diverged(by: float) -> None:
    """It becomes infinite where it is made, and nothing lets it pass."""
    config = smoke()
    student = new_student(config)
    received = wire.weights_to_record(student)
    with torch.no_grad():
        next(student.parameters()).view(-1)[0] += by
    content = honest(MessageType.TRAIN, config, received)
    content[wire.ARRAYS] = wire.change_to_record(student, received)
    with pytest.raises(DivergedError, match=r"^arrays: weights: not finite$"):
        admit(content, reply_rules(MessageType.TRAIN, config, 0, received))


MORE = ("nsd", "lesion_dice")


def test_more_scores_leave_where_both_sides_agreed_on_them_and_else_none() -> None:
    asked = {"scoring.extra_metrics": MORE}
    plain_reply, more = (honest(MessageType.EVALUATE, smoke(**changes), SENT) for changes in ({}, asked))
    assert set(more[wire.METRICS]) - set(plain_reply[wire.METRICS]) == {
        f"{mask}.{name}.{region}" for mask in ("coarse", "refined") for name in MORE for region in ("tc", "wt", "et")
    }
    assert admitted(MessageType.EVALUATE, more, **asked) == more
    for reply, changes in ((more, {}), (plain_reply, asked), (more, {"scoring.extra_metrics": ("nsd",)})):
        with pytest.raises(ReplyError, match="metrics: names differ from those agreed"):
            admitted(MessageType.EVALUATE, reply, **changes)


@pytest.mark.parametrize("value", [1.01, -0.01])
def test_a_share_that_is_none_does_not_leave(value: float) -> None:
    asked = {"scoring.extra_metrics": MORE}
    reply = honest(MessageType.EVALUATE, smoke(**asked), SENT)
    reply.metric_records[wire.METRICS]["refined.nsd.wt"] = value
    with pytest.raises(ReplyError, match=r"metrics: refined\.nsd\.wt: out of range"):
        admitted(MessageType.EVALUATE, reply, **asked)


@pytest.mark.parametrize("name", ["truth_ml", "predicted_ml", "difference_ml", "lesions_found"])
def test_volumes_and_counts_stay_in_the_hospital_whatever_is_asked(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^scoring\.extra_metrics: "):
        smoke(**{"scoring.extra_metrics": (name,)})
