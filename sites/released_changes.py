"""Changes of weights that left with noise on them, kept: who asks again gets the same one, and no other besides.

A GPU does not give the same bits twice, nor do other numbers of threads: a round that is done again because its answer
was lost would release a second change, which the noise was not reckoned for.
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

_NUMBERS = "numbers"  # of all metric records, as JSON; arrays stand beside it as RECORD/NAME


class ReleasedChanges:
    """What one hospital released of the stage at work, by what it was asked: files that hold nothing that has not left.

    Parameters
    ----------
    folder : Path
        Made with the first of them. There are no more files in it than changes that may leave in a stage.
    config : Settings
        Of a change without noise nothing is kept: it may be computed as often as is asked.
    log : logging.Logger
        The hospital's own.
    """

    def __init__(self, folder: Path, config: Settings, log: logging.Logger) -> None:
        self._folder, self._config, self._log = folder, config, log

    def answer_to(self, message: Message) -> RecordDict | None:
        """Return what was released when exactly this was asked before; None where it never was, or was not kept."""
        file = self._file(message)
        if file is None or not file.is_file():
            return None
        try:
            return _read(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self._log.warning("%s: damaged, so the round is done again (%s)", file, error)
            return None

    def keep(self, message: Message, content: RecordDict) -> None:
        """Keep an answer that is about to leave, in the place of those of other stages and experiments.

        Raises
        ------
        OSError
            If it cannot be written: then it must not leave.
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
        """Return the file of the answer to a message, by the hash of all that it asks; None where none is kept."""
        if self._config.privacy.dp_noise == 0 or message.metadata.message_type != MessageType.TRAIN:
            return None
        orders = message.content.config_records.get(wire.CONFIG)
        stage = None if orders is None else orders.get("stage")
        if type(stage) is not int:  # no order: there is no answer to it
            return None
        return self._folder / f"{self._config.fingerprint:016x}-{stage}-{_digest(message.content)}.npz"


def _digest(content: RecordDict) -> str:
    """Return a SHA-256 of every value in an order. Where Flower's own hash is asked for, no copy can be made later."""
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
    with np.load(file, allow_pickle=False) as kept:  # reads whole values, by their checksums
        numbers = json.loads(str(kept[_NUMBERS]))
        for where in kept.files:
            if where != _NUMBERS:
                record, _, name = where.partition("/")
                records.setdefault(record, {})[name] = Array(kept[where])
    arrays = {record: ArrayRecord(values) for record, values in records.items()}
    return RecordDict({**arrays, **{record: MetricRecord(values) for record, values in numbers.items()}})
