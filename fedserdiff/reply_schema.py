"""The rules for the content of replies, default deny: a hospital checks a reply before it leaves, the coordinator on
arrival.

A hospital checks orders that name scans to leave out with the same kind of rules.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from flwr.app import Array, ArrayRecord, MessageType, MetricRecord, MetricRecordValues, RecordDict
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.errors import DivergedError, FederationError, ReplyError
from fedserdiff.lesions.moments import MOMENTS_WITHIN, LesionMoments
from fedserdiff.lesions.retention import after, before
from fedserdiff.methods import get_method
from fedserdiff.methods.method import Method
from fedserdiff.privacy.gaussian import noise_deviation
from fedserdiff.settings.experiment import Settings
from fedserdiff.statistics.cells import PATIENTS, QUANTITIES

_MOST_CASES = 1_000_000
_MOST_SCANS = 100_000  # whose hashes are sent: 3.2 MB
_WORST_MM = 10_000.0
_HUGE = 1e12


@dataclass(frozen=True)
class ArrayRule:
    """The rule for one array: its `dtype`, `shape` and range of values.

    If `most` is above 0, the array holds from 1 to `most` samples, and `shape` is that of one sample. The number of
    samples is a multiple of `step`. If `ascending`, each sample is greater than the previous one, byte by byte: no two
    are equal, and their order carries no information. If `packed`, the array is sent as `fedserdiff.wire.packed` makes
    it.
    """

    dtype: str
    shape: tuple[int, ...]
    most: int = 0
    least: float = -np.inf
    greatest: float = np.inf
    step: int = 1
    ascending: bool = False
    packed: bool = False


@dataclass(frozen=True)
class NumberRule:
    """The rule for one scalar: an ``int`` that is a multiple of `step`, or a finite ``float`` if `step` is 0."""

    least: float
    greatest: float
    step: int = 0
    optional: bool = False


Rules = Mapping[str, Mapping[str, ArrayRule] | Mapping[str, NumberRule]]
"""Exactly the records that a reply must hold, by name, with their arrays or scalars by name."""


def reply_rules(
    message_type: str,
    config: Settings,
    site: int,
    student: ArrayRecord | None,
    asked: Collection[str] | None = None,
    watched: Collection[int] = (),
) -> Rules:
    """Return the rules for the reply to a message.

    Parameters
    ----------
    message_type : str
        Flower type of the message that is answered.
    config : Settings
        Experiment that both sides agreed on.
    site : int
        Number of the answering site, from 0.
    student : ArrayRecord or None
        Weights of a student of the experiment, which determine the shape of weight changes; not needed for an
        introduction. A hospital builds it from its own experiment, and never uses the one in the message.
    asked : collection of str, optional
        Records of the method that a message requests about a completed stage; no others are allowed.
    watched : collection of int
        Positions of the earlier hospitals whose retention the reply to a round reports.

    Raises
    ------
    ReplyError
        If no reply to such a message was agreed.
    """
    if message_type == MessageType.QUERY:
        count = NumberRule(wire.COUNTS_ROUNDED_TO, _MOST_CASES, wire.COUNTS_ROUNDED_TO)
        about = {"site": NumberRule(site, site, 1), "training-cases": count, f"{config.scoring.patients}-cases": count}
        if config.data.allow_overlap:
            return {wire.SITE: about}
        return {wire.SITE: about, wire.SCANS: _SCANS}
    if message_type == wire.STATISTICS:
        return {wire.HISTOGRAMS: _histograms(config)}
    if message_type == MessageType.TRAIN and student is not None:
        of_regions = [(place, region) for place in watched for region in config.data.regions]
        told = {name(*one): _PERCENT for one in of_regions for name in (before, after)}
        metrics = {**_losses(config), **told, wire.WEIGHT: _WEIGHT}
        beside = [p for p in get_method(config.method.name).parts if p.every_round]
        return {
            wire.ARRAYS: _like(student, "float16"),
            wire.METRICS: metrics,
            **{part.hands_over: _agreed(part, config, student) for part in beside},
        }
    if message_type == MessageType.EVALUATE:
        return {wire.METRICS: {**_scores(config), wire.WEIGHT: _WEIGHT}}
    if message_type == wire.CONSOLIDATE and student is not None and (handed := _handed_over(config, student, asked)):
        return handed
    raise ReplyError(f"no reply to a {message_type} message was agreed")


def left_out_rules() -> Rules:
    """Return the rules for an order that tells a hospital which of its scans an earlier hospital has."""
    hashes = ArrayRule("uint8", (wire.HASH_BYTES,), _MOST_SCANS, ascending=True)
    return {wire.LEFT_OUT: {wire.HASHES: hashes, wire.SALT: ArrayRule("uint8", (wire.SALT_BYTES,))}}


_PERCENT = NumberRule(0, 100, 1, optional=True)  # absent if no lesion has the region
_WEIGHT = NumberRule(wire.COUNTS_ROUNDED_TO, _MOST_CASES, wire.COUNTS_ROUNDED_TO)
_SCANS = {wire.HASHES: ArrayRule("uint8", (wire.HASH_BYTES,), _MOST_SCANS, step=wire.COUNTS_ROUNDED_TO, ascending=True)}


def _scores(config: Settings) -> dict[str, NumberRule]:
    return {
        f"{mask}.{metric}.{region}": NumberRule(0, _WORST_MM if metric == "hd95" else 1)
        for mask in ("coarse", "refined")
        for region in config.data.regions
        for metric in config.scoring.metrics
    }


def _histograms(config: Settings) -> dict[str, ArrayRule]:
    """Return the rules for statistics, whose counts are in units of 5 patients."""
    cells = {one.name: ArrayRule("int32", one.shape(config), least=0, greatest=one.most) for one in QUANTITIES}
    return {PATIENTS: ArrayRule("int32", (1,), least=0, greatest=_MOST_CASES // wire.COUNTS_ROUNDED_TO), **cells}


def _losses(config: Settings) -> dict[str, NumberRule]:
    """Return the rules for a round's losses; there are none with noise on the weights, since losses would have none."""
    terms = get_method(config.method.name).terms if config.privacy.dp_noise == 0 else ()
    return {f"loss-{term}": NumberRule(-_HUGE, _HUGE, optional=term != "segmentation") for term in terms}


def _like(student: ArrayRecord, dtype: str, least: float = -np.inf) -> dict[str, ArrayRule]:
    return {name: ArrayRule(dtype, tuple(array.shape), least=least) for name, array in student.items()}


def error_maps(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules for synthetic error maps; empty if the settings share none."""
    if config.shared_error_maps == "none":
        return {}
    most = config.replay.shared_maps
    return {"maps": ArrayRule("int8", _masks(config), most, -wire.LEVELS, wire.LEVELS, packed=True)}


def synthetic_images(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules for synthetic images and their masks."""
    regions, *grid = _masks(config)
    most = config.replay.shared_maps
    return {
        "images": ArrayRule("float16", (len(config.data.modalities), *grid), most),
        "masks": ArrayRule("uint8", (regions, *grid), most, 0, 1, packed=True),
    }


def lesion_moments(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules for the moments of a hospital's lesions, with the shapes of `LesionMoments`."""
    shapes = LesionMoments.shapes(len(config.data.regions), len(config.data.modalities))
    return {name: ArrayRule("float32", shape, 1, *MOMENTS_WITHIN[name]) for name, shape in shapes.items()}


def fisher(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules for the importance of weights: one non-negative number for each."""
    return _like(student, "float32", least=0)


def control(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    """Return the rules for the change of SCAFFOLD's control variate: one number for each weight."""
    return _like(student, "float32")


def _masks(config: Settings) -> tuple[int, ...]:
    return (len(config.data.regions), *config.sample_shape)


def _handed_over(
    config: Settings, student: ArrayRecord, asked: Collection[str] | None
) -> dict[str, dict[str, ArrayRule]]:
    """Return the rules of the requested records that the method keeps from a stage."""
    agreed: dict[str, dict[str, ArrayRule]] = {}
    for method in get_method(config.method.name).parts:
        if method.every_round or (asked is not None and method.hands_over not in asked):
            continue
        if rules := _agreed(method, config, student):
            agreed[method.hands_over] = rules
    return agreed


def _agreed(method: Method, config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    rules = wire.rules_of(method, config, student)
    for array, rule in rules.items():
        if not isinstance(rule, ArrayRule):
            raise ReplyError(f"{method.hands_over}: {method.records}: the rule of {array} is not an ArrayRule")
    return rules


def admit(content: RecordDict, rules: Rules, arrived: bool = False) -> RecordDict:
    """Return a new reply with exactly the content that the rules name, in their order.

    Anything else in the reply, for example hidden in the encoding of an array, is not copied, and is an error. Packed
    arrays are packed here from their values when they leave: many streams unpack to the same values, and this way only
    one of them can be sent.

    Parameters
    ----------
    content : RecordDict
    rules : mapping
        From `reply_rules`.
    arrived : bool
        Whether the reply has arrived over the network: packed arrays must then be packed, and are returned unpacked.

    Raises
    ------
    DivergedError
        If a value is not finite, but otherwise follows the rules.
    ReplyError
        If anything is missing, added or breaks the rules. The message names only agreed records and never repeats
        content of the reply.
    """
    if set(content) != set(rules):
        raise ReplyError(f"records other than {', '.join(sorted(rules))}")
    admitted: dict[str, ArrayRecord | MetricRecord] = {}
    for record, agreed in rules.items():
        value = content[record]
        required = {name for name, rule in agreed.items() if not (isinstance(rule, NumberRule) and rule.optional)}
        wanted: type[ArrayRecord | MetricRecord] = (
            ArrayRecord if isinstance(next(iter(agreed.values())), ArrayRule) else MetricRecord
        )
        if type(value) is not wanted:
            raise ReplyError(f"{record}: is not a {wanted.__name__}")
        if not required <= set(value) <= set(agreed):
            raise ReplyError(f"{record}: names differ from those agreed")
        if isinstance(value, ArrayRecord):
            rules_of = {name: rule for name, rule in agreed.items() if isinstance(rule, ArrayRule)}
            arrays = {name: _array(value[name], rule, f"{record}: {name}", arrived) for name, rule in rules_of.items()}
            if len({len(arrays[name]) for name, rule in rules_of.items() if rule.most}) > 1:
                raise ReplyError(f"{record}: arrays with different numbers of samples")
            admitted[record] = ArrayRecord(
                {n: wire.packed(a) if rules_of[n].packed and not arrived else Array(a) for n, a in arrays.items()}
            )
        else:
            numbers: dict[str, MetricRecordValues] = {
                n: _number(value[n], rule, f"{record}: {n}")
                for n, rule in agreed.items()
                if isinstance(rule, NumberRule) and n in value
            }
            admitted[record] = MetricRecord(numbers)
    return RecordDict(dict(admitted))


def _array(array: Array, rule: ArrayRule, where: str, arrived: bool) -> NDArray[np.generic]:
    """Return an array's values after checking that they and their encoding follow the rule."""
    shape = tuple(array.shape)
    samples = shape[0] if rule.most and shape else 1
    if rule.most and not (isinstance(samples, int) and 1 <= samples <= rule.most):
        raise ReplyError(f"{where}: not from 1 to {rule.most} samples")
    if samples % rule.step:
        raise ReplyError(f"{where}: not a multiple of {rule.step} samples")
    if shape != ((samples, *rule.shape) if rule.most else rule.shape) or array.dtype != rule.dtype:
        raise ReplyError(f"{where}: another shape or type than agreed")
    packed = rule.packed and (arrived or array.stype == wire.PACKED)
    values = _unpacked(array, where) if packed else _plain(array, where)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise DivergedError(f"{where}: not finite")
    if values.size and (values.min() < rule.least or values.max() > rule.greatest):
        raise ReplyError(f"{where}: values out of range")
    if rule.ascending and not all(one.tobytes() < other.tobytes() for one, other in pairwise(values)):
        raise ReplyError(f"{where}: not in ascending order")
    return values


def _plain(array: Array, where: str) -> NDArray[np.generic]:
    """Return an array's values after checking that its bytes are exactly those that Flower writes for them."""
    header, size = _header(array.dtype, tuple(array.shape))
    if array.stype != "numpy.ndarray" or len(array.data) != size or array.data[: len(header)] != header:
        raise ReplyError(f"{where}: another encoding than agreed")
    return np.frombuffer(bytes(array.data), array.dtype, offset=len(header)).reshape(array.shape)


def _unpacked(array: Array, where: str) -> NDArray[np.generic]:
    try:
        return wire.unpacked(array)
    except FederationError:
        raise ReplyError(f"{where}: another encoding than agreed") from None


@lru_cache(maxsize=1024)
def _header(dtype: str, shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return the header and the total length of Flower's encoding of such an array."""
    encoded = Array(np.zeros(shape, dtype)).data
    return encoded[: len(encoded) - int(np.prod(shape)) * np.dtype(dtype).itemsize], len(encoded)


def _number(value: object, rule: NumberRule, where: str) -> int | float:
    if rule.step:
        if type(value) is not int or value % rule.step:
            raise ReplyError(f"{where}: is not a multiple of {rule.step}")
    elif type(value) is not float:
        raise ReplyError(f"{where}: is not one floating-point number")
    elif not np.isfinite(value):
        raise DivergedError(f"{where}: not finite")
    if not rule.least <= value <= rule.greatest:
        raise ReplyError(f"{where}: out of range")
    return value


_NOISE_LEEWAY = 1.05  # the root mean square of 100,000 draws strays by some 0.2 %


def check_update(content: RecordDict, config: Settings) -> None:
    """Check that a round's change of the student, if the reply holds it, is within the configured limit.

    The agreed privacy noise is allowed on top of it.

    Raises
    ------
    ReplyError
        If the root mean square of the weights' changes exceeds `max_update_rms`.
    """
    if wire.ARRAYS not in content.array_records:
        return
    changes = [array.numpy().astype(np.float64) for array in content.array_records[wire.ARRAYS].values()]
    rms = (sum(float(np.square(c).sum()) for c in changes) / sum(c.size for c in changes)) ** 0.5
    if not rms <= math.hypot(config.privacy.max_update_rms, _NOISE_LEEWAY * noise_deviation(config)):
        raise ReplyError(
            f"{wire.ARRAYS}: the weights changed by more than max_update_rms = {config.privacy.max_update_rms:g}"
        )
