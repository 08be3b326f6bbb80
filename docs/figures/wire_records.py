"""What crosses the wire in one stage: records by name, content and size, from the declared records."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from canvas import COORDINATOR, HOSPITAL, INK, RED, WIDTH, Canvas
from flwr.app import MessageType

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student
from fedserdiff.reply_schema import ArrayRule, Rules, reply_rules
from fedserdiff.settings.sources import make_settings

METHOD, MAPS = "ser-diff", "null"
"""The figure's method, and its error maps: they start from noise."""


@dataclass(frozen=True)
class Record:
    """A record in a message: whether it leaves the hospital, its name, its content and its size."""

    leaves: bool
    name: str
    content: str
    size: str


Messages = Mapping[str, tuple[str, tuple[Record, ...]]]
"""For each type of message, when it is sent, and its records."""

_CONTENT = {
    (MessageType.TRAIN, wire.ARRAYS): "change of each weight, float16",
    (MessageType.TRAIN, wire.METRICS): "mean losses, rounded case count",
    (wire.CONSOLIDATE, wire.ERROR_MAPS): "{most} synthetic maps, int8, packed",
    (MessageType.EVALUATE, wire.METRICS): "mean Dice and HD95, rounded case count",
}
"""The content of a hospital's records, by type of message and name."""


def read_records() -> Messages:
    """Return the messages of a stage in profile ``laptop``; each order also has a record ``config``.

    Raises
    ------
    SystemExit
        If the code lets a record leave that `_CONTENT` does not describe.
    """
    settings = make_settings(methods={METHOD: {"shared_error_maps": MAPS}}, method=METHOD)
    student = wire.weights_to_record(Student(settings))
    weights = _megabytes(sum(array.numpy().nbytes for array in student.values()))
    sent = Record(False, wire.ARRAYS, "the student's weights, float32", weights)
    teacher = Record(False, wire.teacher_record(1), "from stage 2: the teacher's weights, once", weights)
    maps = next(iter(_leaving(wire.CONSOLIDATE, reply_rules(wire.CONSOLIDATE, settings, 0, student))))
    bank = Record(False, wire.ERROR_MAPS, "from stage 2: maps of earlier hospitals", f"{maps.size} each")
    orders = {
        MessageType.TRAIN: ("each round", (sent, teacher, bank)),
        wire.CONSOLIDATE: ("at the stage's end", (sent,)),
        MessageType.EVALUATE: ("after the stage", (sent,)),
    }
    return {
        kind: (when, (*order, *_leaving(kind, reply_rules(kind, settings, 0, student))))
        for kind, (when, order) in orders.items()
    }


def _leaving(kind: str, rules: Rules) -> Iterator[Record]:
    for name, agreed in rules.items():
        if (kind, name) not in _CONTENT:
            raise SystemExit(f"docs/figures/wire_records.py: _CONTENT: describe the record {name} of {kind}")
        arrays = [rule for rule in agreed.values() if isinstance(rule, ArrayRule)]
        most = max((rule.most for rule in arrays), default=0)
        size = sum(max(rule.most, 1) * int(np.prod(rule.shape)) * np.dtype(rule.dtype).itemsize for rule in arrays)
        told = f"{'under ' if most else ''}{_megabytes(size)}" if arrays else f"{len(agreed)} numbers"
        yield Record(True, name, _CONTENT[kind, name].format(most=most), told)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def listing(messages: Messages) -> str:
    """Return the records that leave, one line per message; the figure's file stores them and a test compares them."""
    return "\n".join(
        f"{kind}: {' '.join(sorted(one.name for one in records if one.leaves))}"
        for kind, (_, records) in messages.items()
    )


def draw_records(messages: Messages) -> Canvas:
    """Draw the coordinator left, a hospital right, and an arrow for each record."""
    rows = sum(len(records) for _, records in messages.values())
    page = Canvas(60 + _HEADING * len(messages) + _ROW * rows + 100)
    for x, colour in ((0, COORDINATOR), (WIDTH - _SIDE, HOSPITAL)):
        page.area(x, 60, _SIDE, page.height - 160, colour)
    page.text(12, 32, "coordinator", align="left", weight="bold")
    page.text(WIDTH - 12, 32, "hospital", align="right", weight="bold")
    y = 60.0
    for kind, (when, records) in messages.items():
        page.text(WIDTH / 2, y + 36, f"{kind}: {when}", colour=RED)
        y += _HEADING
        for one in records:
            colour = RED if one.leaves else INK
            page.text(_SIDE + 26, y + 16, one.name, align="left", weight="bold")
            page.text(WIDTH - _SIDE - 26, y + 16, one.size, align="right")
            page.text(_SIDE + 26, y + 49, one.content, align="left", size=24)
            ends = ((WIDTH - _SIDE, y + 76), (_SIDE, y + 76))
            page.arrow(*(ends if one.leaves else ends[::-1]), colour=colour, width=2.6)
            y += _ROW
    page.text(
        WIDTH / 2, page.height - 52, "Each order also has a config record:\nstage, round, records to return.", size=24
    )
    return page


_SIDE, _HEADING, _ROW = 50, 64, 100
"""Pixels: width of a side, heights of a heading and of a record."""
