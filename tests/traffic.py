"""Messages made by hand, because Flower makes none outside a run, and the replies that a hospital must give."""

import bz2
import time
from collections.abc import Collection

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MessageType,
    Metadata,
    MetricRecord,
    MetricRecordValues,
    RecordDict,
)
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings

TYPES = (MessageType.QUERY, wire.STATISTICS, MessageType.TRAIN, wire.CONSOLIDATE, MessageType.EVALUATE)

SECRET = "/scans/patient-007"
"""A text that no reply may hold in any form."""

RUN, COORDINATOR, GROUP = 7, 1, "of the coordinator"

SALT = bytes(range(16))


def request(message_type: str, content: RecordDict, node: int = 2) -> Message:
    """A message to a hospital's node, as it arrives there."""
    metadata = Metadata(
        run_id=RUN,
        message_id="message-1",
        src_node_id=COORDINATOR,
        dst_node_id=node,
        reply_to_message_id="",
        group_id=GROUP,
        created_at=time.time(),
        ttl=3600,
        message_type=message_type,
    )
    return Message(metadata=metadata, content=content)


def order(message_type: str, sent: ArrayRecord) -> Message:
    """A request of stage 2, round 1, with a student, for the types that bring one."""
    if message_type in (MessageType.QUERY, wire.STATISTICS):
        return request(message_type, RecordDict({wire.CONFIG: ConfigRecord({"experiment": 1, "salt": SALT})}))
    orders = {"stage": 2, "server-round": 1} if message_type == MessageType.TRAIN else {"stage": 2}
    return request(message_type, RecordDict({wire.ARRAYS: copy(sent), wire.CONFIG: ConfigRecord(dict(orders))}))


def answer(node: int, message_type: str, content: RecordDict | Error) -> Message:
    """What a node answers, as it arrives at the coordinator."""
    return Message(content, reply_to=request(message_type, RecordDict(), node))


def copy(record: ArrayRecord) -> ArrayRecord:
    return ArrayRecord(dict(record))


def moved(sent: ArrayRecord, by: float = 0.01) -> ArrayRecord:
    """A student each of whose weights changed by as much."""
    return ArrayRecord({name: Array(array.numpy() + np.float32(by)) for name, array in sent.items()})


def change(sent: ArrayRecord, by: float = 0.01) -> ArrayRecord:
    """What a hospital answers for such a student: by how much each weight changed."""
    return ArrayRecord({name: Array(np.full(array.shape, by, np.float16)) for name, array in sent.items()})


def packed(values: NDArray[np.generic]) -> Array:
    """Synthetic samples of whole numbers as they travel: one bzip2 stream of the values."""
    return Array(str(values.dtype), values.shape, "bz2", bz2.compress(values.tobytes()))


def values_of(array: Array) -> NDArray[np.generic]:
    """The values of an array, plain or packed."""
    if array.stype != "bz2":
        return array.numpy()
    return np.frombuffer(bz2.decompress(array.data), array.dtype).reshape(array.shape)


def plain(content: RecordDict) -> RecordDict:
    """A reply as it is inside a process, before it is packed and after it has been unpacked."""
    return RecordDict(
        {
            name: ArrayRecord({key: Array(values_of(array)) for key, array in record.items()})
            if isinstance(record, ArrayRecord)
            else record
            for name, record in content.items()
        }
    )


def honest(message_type: str, config: Settings, sent: ArrayRecord, site: int = 0) -> RecordDict:
    """A reply as agreed, its values drawn where any do."""
    metrics: dict[str, MetricRecordValues]
    if message_type == MessageType.QUERY:
        about = RecordDict({wire.SITE: MetricRecord({"site": site, "training-cases": 10, "test-cases": 5})})
        return about if config.data.allow_overlap else RecordDict({**about, wire.SCANS: hashes(site)})
    if message_type == wire.STATISTICS:
        return RecordDict({wire.HISTOGRAMS: histograms()})
    if message_type == MessageType.TRAIN:
        metrics = {f"loss-{term}": 0.5 for term in get_method(config.method.name).terms}
        told = RecordDict({wire.ARRAYS: change(sent), wire.METRICS: MetricRecord({**metrics, wire.WEIGHT: 10})})
        if get_method(config.method.name).every_round:
            told[wire.CONTROL] = ArrayRecord(
                {name: Array(np.full(array.shape, -0.5, np.float32)) for name, array in sent.items()}
            )
        return told
    if message_type == MessageType.EVALUATE:
        masks, regions = ("coarse", "refined"), ("tc", "wt", "et")
        metrics = {f"{mask}.dice.{region}": 0.75 for mask in masks for region in regions}
        metrics |= {
            f"{mask}.{one}.{region}": 0.5
            for mask in masks
            for one in config.scoring.extra_metrics
            for region in regions
        }
        metrics |= {f"{mask}.hd95.{region}": 12.5 for mask in masks for region in regions}
        return RecordDict({wire.METRICS: MetricRecord({**metrics, wire.WEIGHT: 5})})
    return handed_over(config, sent)


def hashes(seed: int, rows: int = 20) -> ArrayRecord:
    """As many hashes as rows, as a hospital would tell them of scans and decoys."""
    drawn = np.random.default_rng(seed).integers(0, 256, (rows, 32), np.uint8)
    return ArrayRecord({"hashes": Array(drawn[np.lexsort(drawn.T[::-1])])})


HISTOGRAMS = {
    "patients": ((1,), 200_000), "volumes": ((3, 8), 200_000), "spacing": ((2, 8), 200_000),
    "intensities": ((4, 24), 1000), "tumour-intensities": ((4, 24), 1000),
}  # fmt: skip
"""Statistics of three regions and four modalities before training: shapes and greatest values."""


def histograms(seed: int = 0) -> ArrayRecord:
    """Statistics whose values are anywhere in their ranges."""
    draws = np.random.default_rng(seed)
    told = {name: draws.integers(0, most + 1, shape, np.int32) for name, (shape, most) in HISTOGRAMS.items()}
    return ArrayRecord({name: Array(values) for name, values in told.items()})


MOMENTS = {
    "means": (3, 4), "between": (3, 4, 4), "within": (3, 4, 4), "extent": (3, 4), "inside": (3, 3), "size": (2,),
    "patients": (1,),
}  # fmt: skip
"""Shapes of the moments of lesions of three regions in four modalities."""


def handed_over(
    config: Settings, sent: ArrayRecord, samples: int = 2, asked: Collection[str] | None = None
) -> RecordDict:
    """What of the records asked for the config's method hands over; nothing for a method that keeps nothing."""
    draws = np.random.default_rng(0)
    grid = config.data.grid[: config.data.spatial_dims]
    maps = draws.integers(-15, 16, (samples, 3, *grid), np.int8)
    images = draws.normal(size=(samples, 4, *grid)).astype(np.float16)
    known = {
        wire.ERROR_MAPS: {"maps": packed(maps)},
        wire.SYNTHETIC_IMAGES: {"images": Array(images), "masks": packed((maps > 0).astype(np.uint8))},
        wire.LESION_MOMENTS: {name: Array(draws.random((1, *shape), np.float32)) for name, shape in MOMENTS.items()},
        wire.FISHER: {name: Array(np.abs(array.numpy())) for name, array in sent.items()},
    }
    names = get_method(config.method.name).hands_over_all
    return RecordDict({name: ArrayRecord(known[name]) for name in names if asked is None or name in asked})


def on_the_wire(what: InflatableObject) -> bytes:
    """Every byte that Flower would send for it: a message's or a record's objects, all the way down."""
    return b"".join(part.deflate() for part in get_all_nested_objects(what).values())
