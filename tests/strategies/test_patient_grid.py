"""Nodes that come and go, on Flower's own state of nodes and messages."""

import threading
import time
from collections.abc import Sequence

import pytest
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from superlink import LONG_S, SuperLink, SuperNode

from fedserdiff.wire import Fault
from strategies.patient_grid import PatientGrid

SENDINGS = 4
UNNOTICED, NOTICED = 0.0, 0.5
"""Seconds a node is away: the grid may not see it before it is back, or is told by Flower that it is not there."""


def word(text: str) -> RecordDict:
    return RecordDict({"said": ConfigRecord({"word": text})})


def said(message: Message) -> str:
    return str(message.content.config_records["said"]["word"])


def echo(node: SuperNode, message: Message) -> RecordDict:
    return word(f"{said(message)} yourself")


def dies_once(away_s: float) -> Answer:  # type: ignore[name-defined]  # noqa: F821
    raise NotImplementedError


def to(node: SuperNode, text: str = "hello", ttl: float = LONG_S) -> Message:
    return Message(word(text), node.id, MessageType.TRAIN, ttl=ttl)
