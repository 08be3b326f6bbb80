"""Ways to get data out of a hospital: each changes an honest reply so that it holds something that was not agreed."""

import bz2
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict
from guarded import smoke, student
from numpy.typing import NDArray
from traffic import SECRET, change, hashes, moved, packed

from fedserdiff import wire

QUERY, TRAIN, CONSOLIDATE, EVALUATE = MessageType.QUERY, MessageType.TRAIN, wire.CONSOLIDATE, MessageType.EVALUATE
STATISTICS = wire.STATISTICS
ANY = (QUERY, STATISTICS, TRAIN, CONSOLIDATE, EVALUATE)

CONFIG = smoke()
SENT = student(CONFIG)
DRAWS = np.random.default_rng(0)
VOLUME = (DRAWS.normal(size=(4, 16, 24, 16)) * 30).clip(-127, 127)
"""A scan's four modalities on the working grid."""

MAPS = DRAWS.integers(-15, 16, (2, 3, 16, 24), np.int8)

Change = Callable[[RecordDict], None]
Attempt = tuple[str, str, Change]
"""The type of the message that is answered, what is attempted, and the change."""


def record(name: str, value: ArrayRecord | MetricRecord | ConfigRecord | NDArray[np.generic]) -> Change:
    """A record of this name and no other, whether it is a new one or takes the place of another."""
    new = ArrayRecord({"volume": Array(value)}) if isinstance(value, np.ndarray) else value

    def change(content: RecordDict) -> None:
        content.pop(name, None)
        content[name] = new

    return change


def put(name: str, key: str, value: object) -> Change:
    """One array or number."""

    def change(content: RecordDict) -> None:
        content[name][key] = Array(value) if isinstance(value, np.ndarray) else value  # type: ignore[assignment]

    return change


def drop(name: str, key: str = "") -> Change:
    def change(content: RecordDict) -> None:
        if key:
            del content[name][key]
        else:
            del content[name]

    return change


def declared(name: str, key: str, **about: object) -> Change:
    """The array of the honest reply, its bytes as they were unless they are given, under another description."""

    def change(content: RecordDict) -> None:
        array = content.array_records[name][key]
        told = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data, **about}
        content.array_records[name][key] = Array(**told)  # type: ignore[arg-type]

    return change


def bytes_of(name: str, key: str, edit: Callable[[bytes], bytes]) -> Change:
    return lambda content: declared(name, key, data=edit(content.array_records[name][key].data))(content)


def npy(values: NDArray[np.generic], version: tuple[int, int]) -> bytes:
    buffer = BytesIO()
    np.lib.format.write_array(buffer, values, version=version)
    return buffer.getvalue()


def padded(data: bytes, text: bytes = b"") -> bytes:
    """An encoding whose header is longer by 64 bytes of one's choice; of blanks NumPy takes no notice."""
    header = data[10:127] + text.ljust(64) + b"\n"
    longer = data[:8] + len(header).to_bytes(2, "little") + header + data[128:]
    if not text:
        assert np.array_equal(np.load(BytesIO(longer)), np.load(BytesIO(data)))
    return longer


def of_header(text: bytes) -> Callable[[bytes], bytes]:
    """Write into the padding of a header, which stays as long as it was."""
    return lambda data: data[: 127 - len(text)] + text + data[127:]


def weights(edit: Callable[[NDArray[np.float16]], NDArray[np.generic]]) -> Change:
    """The changes of the student's weights, edited."""

    def change(content: RecordDict) -> None:
        student = content.array_records[wire.ARRAYS]
        student["weights"] = Array(edit(student["weights"].numpy()))

    return change


def maps(values: NDArray[np.generic]) -> Change:
    """Other error maps, packed as they are to be."""
    return put(wire.ERROR_MAPS, "maps", packed(values))


def stream(edit: Callable[[bytes], bytes]) -> Change:
    """The stream that error maps are packed in, edited."""
    return bytes_of(wire.ERROR_MAPS, "maps", edit)


RAW = MAPS.tobytes()
OTHER_MAPS = ArrayRecord({"maps": packed(MAPS)})

RECORDS: list[Attempt] = [
    *((kind, "an array record more", record("more", VOLUME.astype(np.float32))) for kind in ANY),
    *((kind, "a metric record more", record("more", MetricRecord({"loss": 1.0}))) for kind in ANY),
    *((kind, "an empty record more", record("more", MetricRecord())) for kind in ANY),
    *((kind, "bytes", record("more", ConfigRecord({"scan": VOLUME.tobytes()}))) for kind in ANY),
    *((kind, "text", record("more", ConfigRecord({"path": SECRET}))) for kind in ANY),
    *((kind, "no text", record("more", ConfigRecord({"path": ""}))) for kind in ANY),
    *((kind, "a list of bytes", record("more", ConfigRecord({"scan": [SECRET.encode()]}))) for kind in ANY),
    *((kind, "a list of nothing", record("more", ConfigRecord({"scan": []}))) for kind in ANY),
    *((kind, "a record named by a path", record(SECRET, MetricRecord())) for kind in ANY),
    *((kind, "a teacher", record(wire.teacher_record(1), moved(SENT))) for kind in ANY),
    *((kind, "a student", record(wire.ARRAYS, moved(SENT))) for kind in (QUERY, CONSOLIDATE, EVALUATE)),
    *((kind, "maps", record(wire.ERROR_MAPS, OTHER_MAPS)) for kind in (QUERY, TRAIN, EVALUATE)),
    *((kind, "importances", record(wire.FISHER, moved(SENT))) for kind in ANY),
    (QUERY, "no introduction", drop(wire.SITE)),
    (QUERY, "no hashes of scans", drop(wire.SCANS)),
    (QUERY, "numbers for hashes", record(wire.SCANS, MetricRecord({"hashes": [1] * 9}))),
    (QUERY, "bytes for hashes", record(wire.SCANS, ConfigRecord({"hashes": bytes(160)}))),
    *((kind, "hashes", record(wire.SCANS, hashes(1))) for kind in (TRAIN, CONSOLIDATE, EVALUATE)),
    (TRAIN, "no student", drop(wire.ARRAYS)),
    (TRAIN, "no losses", drop(wire.METRICS)),
    (CONSOLIDATE, "no maps", drop(wire.ERROR_MAPS)),
    (EVALUATE, "no scores", drop(wire.METRICS)),
    (QUERY, "a config for an introduction", record(wire.SITE, ConfigRecord({"site": SECRET}))),
    (TRAIN, "a config for losses", record(wire.METRICS, ConfigRecord({"loss-segmentation": 0.5, wire.WEIGHT: 10}))),
    (TRAIN, "numbers for a student", record(wire.ARRAYS, MetricRecord({"weights": [1.0] * 9}))),
    (EVALUATE, "arrays for scores", record(wire.METRICS, VOLUME)),
]  # fmt: skip

ARRAYS: list[Attempt] = [
    (TRAIN, "an array more", put(wire.ARRAYS, "volume", VOLUME)),
    (TRAIN, "an array named by a path", put(wire.ARRAYS, SECRET, np.zeros(1, np.float32))),
    (TRAIN, "no array", drop(wire.ARRAYS, "weights")),
    *((TRAIN, f"a volume for weights, {t}", put(wire.ARRAYS, "weights", VOLUME.astype(t))) for t in ("f4", "f2", "i2")),
    *((TRAIN, f"a volume's voxels, {t}", put(wire.ARRAYS, "weights", VOLUME.astype(t).ravel())) for t in ("f4", "i2")),
    (TRAIN, "a volume for a student", record(wire.ARRAYS, VOLUME.astype(np.float32))),
    (TRAIN, "weights of two axes", weights(lambda values: values.reshape(2, -1))),
    (TRAIN, "weights less one", weights(lambda values: values[:-1])),
    (TRAIN, "weights, float64", weights(lambda values: values.astype(np.float64))),
    (TRAIN, "weights, float32", weights(lambda values: values.astype(np.float32))),
    (TRAIN, "weights, big-endian", weights(lambda values: values.astype(">f2"))),
    (TRAIN, "weights, integers", weights(lambda values: values.view(np.int16))),
    (TRAIN, "weights, packed", put(wire.ARRAYS, "weights", packed(change(SENT)["weights"].numpy()))),
    (TRAIN, "weights themselves, no change", record(wire.ARRAYS, moved(SENT))),
    (TRAIN, "weights moved too far", record(wire.ARRAYS, change(SENT, by=0.11))),
    (TRAIN, "one weight far away", weights(lambda values: np.append(values[:-1], np.float16(6e4)))),
    (TRAIN, "bytes after the array", bytes_of(wire.ARRAYS, "weights", lambda data: data + SECRET.encode())),
    (TRAIN, "bytes before the array", bytes_of(wire.ARRAYS, "weights", lambda data: SECRET.encode() + data)),
    (TRAIN, "fewer bytes", bytes_of(wire.ARRAYS, "weights", lambda data: data[:-4])),
    (TRAIN, "no bytes", bytes_of(wire.ARRAYS, "weights", lambda data: b"")),
    (TRAIN, "a padded header", bytes_of(wire.ARRAYS, "weights", padded)),
    (TRAIN, "a padded header that tells", bytes_of(wire.ARRAYS, "weights", lambda d: padded(d, SECRET.encode()))),
    (TRAIN, "a header that tells", bytes_of(wire.ARRAYS, "weights", of_header(SECRET.encode()))),
    (TRAIN, "NumPy's other format", bytes_of(wire.ARRAYS, "weights", lambda d: npy(np.load(BytesIO(d)), (2, 0)))),
    (TRAIN, "another shape than the bytes", declared(wire.ARRAYS, "weights", shape=(2, 44788))),
    (TRAIN, "another type than the bytes", declared(wire.ARRAYS, "weights", dtype="int16")),
    (TRAIN, "a type that tells", declared(wire.ARRAYS, "weights", dtype=SECRET)),
    (TRAIN, "another encoding", declared(wire.ARRAYS, "weights", stype="torch.tensor")),
    (TRAIN, "an encoding that tells", declared(wire.ARRAYS, "weights", stype=SECRET)),
    (CONSOLIDATE, "an array more", put(wire.ERROR_MAPS, "scan", VOLUME)),
    (CONSOLIDATE, "another name", record(wire.ERROR_MAPS, ArrayRecord({"volume": packed(MAPS)}))),
    *((CONSOLIDATE, f"a volume for maps, {t}", put(wire.ERROR_MAPS, "maps", VOLUME.astype(t))) for t in ("f4", "f2")),
    *((CONSOLIDATE, f"a volume for maps, {t}", maps(VOLUME.astype(t))) for t in ("f4", "i2", "i1")),
    (CONSOLIDATE, "a volume's slices", maps(np.moveaxis(VOLUME, 3, 0)[:, :3].astype(np.int8))),
    (CONSOLIDATE, "too many maps", maps(np.repeat(MAPS, 3, 0)[:5])),
    (CONSOLIDATE, "maps of none", maps(MAPS[:0])),
    (CONSOLIDATE, "maps, uint8", maps(MAPS.view(np.uint8))),
    (CONSOLIDATE, "maps of four channels", maps(np.concatenate([MAPS, MAPS[:, :1]], 1))),
    (CONSOLIDATE, "maps of another grid", maps(MAPS.reshape(2, 3, 24, 16))),
    (CONSOLIDATE, "one map without its axis", maps(MAPS[0])),
    (CONSOLIDATE, "a single number", maps(np.array(1, np.int8))),
    (CONSOLIDATE, "maps of another byte order", put(wire.ERROR_MAPS, "maps", MAPS.astype(">i2"))),
    *((CONSOLIDATE, f"a level of {n}", maps(np.where(MAPS == 7, np.int8(n), MAPS))) for n in (16, -16, 127, -128)),
]  # fmt: skip

STREAMS: list[Attempt] = [
    (CONSOLIDATE, "bytes after the stream", stream(lambda data: data + SECRET.encode())),
    (CONSOLIDATE, "one byte after the stream", stream(lambda data: data + b"\0")),
    (CONSOLIDATE, "bytes before the stream", stream(lambda data: SECRET.encode() + data)),
    (CONSOLIDATE, "bytes within the stream", stream(lambda data: data[:200] + SECRET.encode() + data[200:])),
    (CONSOLIDATE, "a second stream", stream(lambda data: data + bz2.compress(SECRET.encode()))),
    (CONSOLIDATE, "a second stream of nothing", stream(lambda data: data + bz2.compress(b""))),
    (CONSOLIDATE, "the values in two streams", stream(lambda data: bz2.compress(RAW[:99]) + bz2.compress(RAW[99:]))),
    (CONSOLIDATE, "a stream cut short", stream(lambda data: data[:-1])),
    (CONSOLIDATE, "half a stream", stream(lambda data: data[: len(data) // 2])),
    (CONSOLIDATE, "another checksum", stream(lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])),
    (CONSOLIDATE, "no stream", stream(lambda data: b"")),
    (CONSOLIDATE, "a stream of nothing", stream(lambda data: bz2.compress(b""))),
    (CONSOLIDATE, "a value less", stream(lambda data: bz2.compress(RAW[:-1]))),
    (CONSOLIDATE, "a value more", stream(lambda data: bz2.compress(RAW + b"\0"))),
    (CONSOLIDATE, "text after the values", stream(lambda data: bz2.compress(RAW + SECRET.encode()))),
    (CONSOLIDATE, "a bomb", stream(lambda data: bz2.compress(bytes(200_000_000)))),
    (CONSOLIDATE, "values that are not packed", stream(lambda data: RAW)),
    (CONSOLIDATE, "NumPy's format, packed", stream(lambda data: bz2.compress(npy(MAPS, (1, 0))))),
    (CONSOLIDATE, "another codec", stream(lambda data: zlib.compress(RAW))),
    *(
        (CONSOLIDATE, f"packed by {name}", declared(wire.ERROR_MAPS, "maps", stype=name))
        for name in ("", "BZ2", "zlib", "numpy.ndarray", SECRET)
    ),
    (CONSOLIDATE, "another codec, named", declared(wire.ERROR_MAPS, "maps", stype="zlib", data=zlib.compress(RAW))),
]  # fmt: skip

TOLD = hashes(1)["hashes"].numpy()

HASHES: list[Attempt] = [
    (QUERY, "an array more", put(wire.SCANS, "names", VOLUME)),
    (QUERY, "hashes by names", record(wire.SCANS, ArrayRecord({SECRET: Array(TOLD)}))),
    (QUERY, "an exact number of hashes", put(wire.SCANS, "hashes", TOLD[:17])),
    (QUERY, "no hash", put(wire.SCANS, "hashes", TOLD[:0])),
    (QUERY, "hashes without end", put(wire.SCANS, "hashes", np.repeat(TOLD, 5001, 0))),
    (QUERY, "hashes in another order", put(wire.SCANS, "hashes", TOLD[::-1].copy())),
    (QUERY, "two hashes that changed places", put(wire.SCANS, "hashes", TOLD[[*range(18), 19, 18]])),
    (QUERY, "one hash many times", put(wire.SCANS, "hashes", TOLD[[0, *range(19)]])),
    (QUERY, "longer hashes", put(wire.SCANS, "hashes", np.repeat(TOLD, 2, 1))),
    (QUERY, "shorter hashes", put(wire.SCANS, "hashes", TOLD[:, :16].copy())),
    (QUERY, "hashes of one axis", put(wire.SCANS, "hashes", TOLD.ravel())),
    *((QUERY, f"hashes, {t}", put(wire.SCANS, "hashes", TOLD.astype(t))) for t in ("i1", "u2", "f4")),
    *((QUERY, f"a scan for hashes, {t}", put(wire.SCANS, "hashes", abs(VOLUME).astype(t))) for t in ("f4", "i1", "u1")),
    (QUERY, "text after the hashes", bytes_of(wire.SCANS, "hashes", lambda data: data + SECRET.encode())),
    (QUERY, "a header that tells", bytes_of(wire.SCANS, "hashes", of_header(SECRET.encode()))),
]  # fmt: skip

COUNTS = (7, 0, -5, 5.0)

OF_HISTOGRAMS = wire.HISTOGRAMS
VOLUMES = np.ones((3, 8), np.int32)
HISTOGRAMS: list[Attempt] = [
    (STATISTICS, "an array more", put(OF_HISTOGRAMS, "ages", VOLUMES)),
    (STATISTICS, "an array named by a path", put(OF_HISTOGRAMS, SECRET, VOLUMES)),
    *((STATISTICS, f"no {name}", drop(OF_HISTOGRAMS, name)) for name in ("patients", "volumes", "spacing")),
    (STATISTICS, "a finer histogram", put(OF_HISTOGRAMS, "volumes", np.ones((3, 9), np.int32))),
    (STATISTICS, "a histogram a patient", put(OF_HISTOGRAMS, "volumes", np.ones((10, 3, 8), np.int32))),
    (STATISTICS, "fractions of patients", put(OF_HISTOGRAMS, "volumes", 0.2 * VOLUMES)),
    (STATISTICS, "shares of any precision", put(OF_HISTOGRAMS, "intensities", np.full((4, 24), 1 / 24, np.float32))),
    (STATISTICS, "wider numbers", put(OF_HISTOGRAMS, "volumes", VOLUMES.astype(np.int64))),
    (STATISTICS, "patients below none", put(OF_HISTOGRAMS, "volumes", -VOLUMES)),
    (STATISTICS, "more patients than there are", put(OF_HISTOGRAMS, "spacing", np.full((2, 8), 200_001, np.int32))),
    (STATISTICS, "more than thousandths", put(OF_HISTOGRAMS, "intensities", np.full((4, 24), 1001, np.int32))),
    (STATISTICS, "a count as a number", record(OF_HISTOGRAMS, MetricRecord({"patients": 7}))),
]

NUMBERS: list[Attempt] = [
    *((kind, "a number too great for Flower", put(wire.METRICS, "n", 2**70)) for kind in (TRAIN, EVALUATE)),
    *((kind, "a name that Flower cannot write", put(wire.METRICS, "\ud800", 1.0)) for kind in (TRAIN, EVALUATE)),
    *((kind, "a number more", put(name, "age", 61)) for kind, name in ((QUERY, wire.SITE), (TRAIN, wire.METRICS))),
    *((kind, "text in a name", put(wire.METRICS, SECRET, 1.0)) for kind in (TRAIN, EVALUATE)),
    *((kind, "a number less", drop(wire.METRICS, wire.WEIGHT)) for kind in (TRAIN, EVALUATE)),
    *((kind, "a list", put(wire.METRICS, wire.WEIGHT, [5, 10])) for kind in (TRAIN, EVALUATE)),
    *((kind, f"a count of {n}", put(wire.METRICS, wire.WEIGHT, n)) for kind in (TRAIN, EVALUATE) for n in COUNTS),
    (TRAIN, "a count of two million", put(wire.METRICS, wire.WEIGHT, 2_000_000)),
    (TRAIN, "a list of losses", put(wire.METRICS, "loss-segmentation", [0.5])),
    (TRAIN, "a loss of an integer", put(wire.METRICS, "loss-segmentation", 1)),
    (TRAIN, "a loss of another method", put(wire.METRICS, "loss-consolidation", 0.5)),
    (TRAIN, "no loss", drop(wire.METRICS, "loss-segmentation")),
    (TRAIN, "a loss beyond measure", put(wire.METRICS, "loss-segmentation", 1e300)),
    *((EVALUATE, f"a Dice of {v}", put(wire.METRICS, "refined.dice.wt", v)) for v in (1.5, -0.1, 1, [0.5])),
    *((EVALUATE, f"an HD95 of {v}", put(wire.METRICS, "refined.hd95.wt", v)) for v in (1e6, -1.0)),
    (EVALUATE, "a case's own score", put(wire.METRICS, "refined.dice.wt.patient-007", 0.5)),
    (EVALUATE, "a score less", drop(wire.METRICS, "refined.dice.wt")),
    *((QUERY, f"a count of {n}", put(wire.SITE, "training-cases", n)) for n in (*COUNTS, [5, 5])),
    *((QUERY, f"site {n}", put(wire.SITE, "site", n)) for n in (0, 2, 7, -1, 1.0, [1])),
]  # fmt: skip


def telling_nan(values: NDArray[np.float16]) -> NDArray[np.float16]:
    """Weights the first of which are NaN, with a text in those bits of theirs that mean nothing."""
    text = np.frombuffer(SECRET.encode(), np.uint8).astype(np.uint16)
    return np.concatenate([(np.uint16(0x7E00) | text).view(np.float16), values[len(text) :]])


NOT_FINITE: list[Attempt] = [
    *((TRAIN, f"a weight of {v}", weights(lambda w, v=v: np.append(w[:-1], np.float16(v)))) for v in (np.nan, np.inf)),
    (TRAIN, "a weight of -inf", weights(lambda values: np.append(np.float16(-np.inf), values[1:]))),
    (TRAIN, "no weight that is a number", weights(lambda values: np.full_like(values, np.nan))),
    (TRAIN, "text in NaNs", weights(telling_nan)),
    *((TRAIN, f"a loss of {v}", put(wire.METRICS, "loss-segmentation", v)) for v in (np.nan, np.inf, -np.inf)),
    (EVALUATE, "a score that is no number", put(wire.METRICS, "refined.dice.wt", np.nan)),
    (EVALUATE, "a distance without end", put(wire.METRICS, "refined.hd95.wt", np.inf)),
]  # fmt: skip
