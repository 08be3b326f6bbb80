"""Files that a hospital keeps for itself, one for each round that it trained in: they never leave."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from fedserdiff.errors import DataError, RecordsError
from fedserdiff.files import write_whole
from fedserdiff.model_file import read_tensors
from fedserdiff.settings.experiment import Settings
from sites.ledger import LEDGER_FILE, SENT, Entry, read_ledger

_TRAIN = "train"  # Flower's message type, repeated here so that segmenting scans need not import Flower

When = tuple[int, int]
"""A stage and its round, both from 1."""


class KeptRounds:
    """Files of one kind that a site keeps from its rounds, such as ``adapter-2-1.pt``.

    Files of earlier rounds are kept: a repeated round starts from the same state as the first time, and a student of an
    earlier stage is scored with the state of that stage.

    Parameters
    ----------
    folder : Path
        Folder of the hospital's records.
    kind : str
        What is kept; the first part of the file names.
    config : Settings
        Settings that determine in which rounds the site trains.
    site : str
        The site's name.
    """

    def __init__(self, folder: Path, kind: str, config: Settings, site: str) -> None:
        self._folder, self._kind, self._config, self._site = folder, kind, config, site

    def save(self, tensors: dict[str, torch.Tensor], when: When, newest: int = 0) -> None:
        """Save tensors by name after a round, and keep only the `newest` files; 0 keeps all."""
        write_whole(self._file(when), lambda opened: torch.save(tensors, opened))
        for old in sorted(self._all())[:-newest] if newest else ():
            self._file(old).unlink()

    def load(
        self, before: When, like: Mapping[str, torch.Tensor], since: When = (0, 0)
    ) -> dict[str, torch.Tensor] | None:
        """Load the tensors of the newest round before `before`, on the CPU; return None if there are none yet.

        Parameters
        ----------
        before : tuple of int
            A stage and its round.
        like : mapping
            Tensors with the names and shapes that the result must have.
        since : tuple of int
            A stage and its round; earlier files are not used.

        Raises
        ------
        RecordsError
            If the file of the newest round that the site has trained in is missing or damaged: an older file, or none,
            would give different masks.
        DataError
            As in `read_ledger`.
        """
        kept = max((when for when in self._all() if since <= when < before), default=None)
        needed = self._newest_trained(before)
        if needed is not None and needed >= since and (kept is None or kept < needed):
            raise RecordsError(f"{self._file(needed)}: is missing. {self._what_to_do(needed)}")
        if kept is None:
            return None
        try:
            return read_tensors(self._file(kept), like)
        except DataError as error:
            raise RecordsError(f"{error}. {self._what_to_do(kept)}") from None

    def _file(self, when: When) -> Path:
        return self._folder / f"{self._kind}-{when[0]}-{when[1]}.pt"

    def _all(self) -> list[When]:
        pattern = re.compile(rf"{self._kind}-(\d+)-(\d+)\.pt")
        names = [pattern.fullmatch(file.name) for file in self._folder.glob(f"{self._kind}-*.pt")]
        return [(int(name[1]), int(name[2])) for name in names if name]

    def _newest_trained(self, before: When) -> When | None:
        """Return the last round before `before` in which the site has certainly trained, or None.

        A site that trains alone in a stage has trained in every round, otherwise the stage would have failed. If
        several sites train, the coordinator may continue without it. Then the ledger decides, unless the ledger was
        started again since, with everything else in the folder.
        """
        table = self._config.timetable
        stages = table.stages_of(self._site)
        planned = None
        if stages:
            rounds = [(stage, one) for stage in stages for one in range(1, self._config.rounds + 1)]
            planned = max((when for when in rounds if when < before), default=None)
            if planned is None or len(table.training[planned[0] - 1]) == 1:
                return planned
        ledger = self._folder / LEDGER_FILE
        entries = read_ledger(ledger) if ledger.is_file() else ()
        sent = [when for when in map(_trained_in, entries) if when is not None and when < before]
        begun_anew = bool(stages) and not any(_is_of_before(entry, stages[0]) for entry in entries)
        return max(sent, default=planned if begun_anew else None)

    def _what_to_do(self, when: When) -> str:
        return (
            f"{self._site} trained with it in stage {when[0]}, round {when[1]}, and without it the student gives wrong "
            "masks at this site. Restore the file from a backup; without a backup, the federation has to start again "
            "for this site"
        )


def _trained_in(entry: Entry) -> When | None:
    if entry.message != _TRAIN or entry.verdict != SENT:
        return None
    return None if entry.stage is None or entry.server_round is None else (entry.stage, entry.server_round)


def _is_of_before(entry: Entry, arrival: int) -> bool:
    """Return whether an entry is from before the end of a site's first round, when it had nothing to lose yet."""
    if entry.stage is None:
        return False
    first = entry.message == _TRAIN and (entry.stage, entry.server_round) == (arrival, 1)
    return entry.stage < arrival or first
