"""Store of noisy weight changes that have left: a repeated request gets the same change again, never another one.

A GPU does not compute the same bits twice, and neither does a different number of threads. A round that is repeated
because its answer was lost would therefore release a second change, which the privacy accounting does not include.
"""

import hashlib
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from fedserdiff import wire
from fedserdiff.files import write_whole
from fedserdiff.settings.experiment import Settings

_NUMBERS = "numbers"  # all metric records as JSON; arrays are stored beside it as RECORD/NAME


class ReleasedChanges:
    """Answers that a hospital has released in the current stage, by request; its files only contain what has left.

    Parameters
    ----------
    folder : Path
        Folder, created with the first answer. It has at most as many files as changes may leave in a stage.
    config : Settings
        Settings of the experiment. Changes without noise are not kept: they may be computed as often as requested.
    log : logging.Logger
        The hospital's own log.
    """

    def __init__(self, folder: Path, config: Settings, log: logging.Logger) -> None:
        self._folder, self._config, self._log = folder, config, log

    def answer_to(self, message: Message) -> RecordDict | None:
        """Return what was released for exactly this request before, or None if it never was or was not kept."""
        file = self._file(message)
        if file is None or not file.is_file():
            return None
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self._log.warning("%s: damaged, so the round is repeated (%s)", file, error)
            return None

    def keep(self, message: Message, content: RecordDict) -> None:
        """Keep an answer that is about to leave, and delete those of other stages and experiments.

        Raises
        ------
        OSError
            If it cannot be written; then it must not leave.
        """
        file = self._file(message)
        if file is None:
            return
        if self.answer_to(message) != content:
            write_whole(file, lambda opened: np.savez(opened, **_values(content)), mode=0o600)
        of_stage = file.name.rpartition("-")[0]
        for other in self._folder.iterdir():
            if other.name.rpartition("-")[0] != of_stage:
                other.unlink()

    def _file(self, message: Message) -> Path | None:
        """Return the file for the answer to a message, named by a hash of its content; None if answers are not kept."""
        if self._config.privacy.dp_noise == 0 or message.metadata.message_type != MessageType.TRAIN:
            return None
        orders = message.content.config_records.get(wire.CONFIG)
        stage = None if orders is None else orders.get("stage")
        if type(stage) is not int:  # not an order, so there is no answer to keep
            return None
        return self._folder / f"{self._config.fingerprint:016x}-{stage}-{_digest(message.content)}.npz"


def _digest(content: RecordDict) -> str:
    """Return a SHA-256 over every value in an order. Flower's own hash would prevent copying the message later."""
    digest = hashlib.sha256()
    for record, values in sorted(content.items()):
        for name, value in sorted(values.items()):
            array = value if isinstance(value, Array) else None
            about = repr(value) if array is None else [array.dtype, list(array.shape), array.stype, len(array.data)]
            digest.update(json.dumps([record, name, about]).encode())
            if array is not None:
                digest.update(array.data)
    return digest.hexdigest()


def _values(content: RecordDict) -> dict[str, Any]:
    arrays = {
        f"{record}/{name}": array.numpy()
        for record, values in content.array_records.items()
        for name, array in values.items()
    }
    numbers = {record: dict(values) for record, values in content.metric_records.items()}
    return {**arrays, _NUMBERS: np.array(json.dumps(numbers))}


def _read(file: Path) -> RecordDict:
    records: dict[str, dict[str, Array]] = {}
    with np.load(file, allow_pickle=False) as kept:  # verifies the checksums of the values
        numbers = json.loads(str(kept[_NUMBERS]))
        for where in kept.files:
            if where != _NUMBERS:
                record, _, name = where.partition("/")
                records.setdefault(record, {})[name] = Array(kept[where])
    arrays = {record: ArrayRecord(values) for record, values in records.items()}
    return RecordDict({**arrays, **{record: MetricRecord(values) for record, values in numbers.items()}})
