"""What a hospital keeps for itself, a file for each round that it trained in: none of it leaves."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from fedserdiff.errors import DataError, RecordsError
from fedserdiff.files import write_whole
from fedserdiff.model_file import read_tensors
from fedserdiff.settings.experiment import Settings
from sites.ledger import LEDGER_FILE, SENT, Entry, read_ledger

_TRAIN = "train"  # the type of Flower's message; who segments scans does not wait for Flower

When = tuple[int, int]
"""A stage and a round of it, both from 1."""


class KeptRounds:
    """One kind of what a site keeps of its rounds, in files such as ``adapter-2-1.pt``.

    Those of earlier rounds stay: a round that is asked for again begins where it began the first time, and a student of
    an earlier stage is scored as it was then.

    Parameters
    ----------
    folder : Path
        Of the hospital's records.
    kind : str
        What is kept, as the files' names begin.
    config : Settings
        Says in which rounds the site trains.
    site : str
        The site's name.
    """

    def __init__(self, folder: Path, kind: str, config: Settings, site: str) -> None:
        self._folder, self._kind, self._config, self._site = folder, kind, config, site

    def save(self, tensors: dict[str, torch.Tensor], when: When, newest: int = 0) -> None:
        """Keep tensors by name as they are after a round, and of all that are kept the `newest`; 0 is every one."""
        write_whole(self._file(when), lambda opened: torch.save(tensors, opened))
        for old in sorted(self._all())[:-newest] if newest else ():
            self._file(old).unlink()

    def load(
        self, before: When, like: Mapping[str, torch.Tensor], since: When = (0, 0)
    ) -> dict[str, torch.Tensor] | None:
        """Return what is kept of the newest round before `before`, on the CPU; None where there is none by then.

        Parameters
        ----------
        before : tuple of int
            A stage and a round of it.
        like : mapping
            Tensors of the names and shapes that it has to have.
        since : tuple of int
            A stage and a round of it: nothing of before is taken.

        Raises
        ------
        RecordsError
            If that of the newest round that the site has trained in is missing or damaged: an older one, or none,
            gives other masks.
        DataError
            As `read_ledger`.
        """
        kept = max((when for when in self._all() if since <= when < before), default=None)
        needed = self._newest_trained(before)
        if needed is not None and needed >= since and (kept is None or kept < needed):
            raise RecordsError(f"{self._file(needed)}: is missing: {self._what_to_do(needed)}")
        if kept is None:
            return None
        try:
            return read_tensors(self._file(kept), like)
        except DataError as error:
            raise RecordsError(f"{error}: {self._what_to_do(kept)}") from None

    def _file(self, when: When) -> Path:
        return self._folder / f"{self._kind}-{when[0]}-{when[1]}.pt"

    def _all(self) -> list[When]:
        pattern = re.compile(rf"{self._kind}-(\d+)-(\d+)\.pt")
        names = [pattern.fullmatch(file.name) for file in self._folder.glob(f"{self._kind}-*.pt")]
        return [(int(name[1]), int(name[2])) for name in names if name]

    def _newest_trained(self, before: When) -> When | None:
        """Return the last round before `before` in which the site has trained for certain; None where in none.

        In its own stage a site that trains alone has trained in every round, or the stage would have failed. Where
        several train, the coordinator may go on without it: then the ledger tells, unless it was begun anew since, with
        everything else in the folder.
        """
        config, names = self._config, [one.name for one in self._config.sites]
        together = config.arrival == "together"
        alone = not together and config.training.participation == "arriving"
        arrival = None
        if self._site in names:
            arrival = 1 if together else names.index(self._site) + 1
        planned = None
        if arrival is not None:
            last = arrival if alone or together else len(names)
            rounds = [(stage, one) for stage in range(arrival, last + 1) for one in range(1, config.rounds + 1)]
            planned = max((when for when in rounds if when < before), default=None)
            if planned is None or alone:
                return planned
        ledger = self._folder / LEDGER_FILE
        entries = read_ledger(ledger) if ledger.is_file() else ()
        sent = [when for when in map(_trained_in, entries) if when is not None and when < before]
        begun_anew = arrival is not None and not any(_is_of_before(entry, arrival) for entry in entries)
        return max(sent, default=planned if begun_anew else None)

    def _what_to_do(self, when: When) -> str:
        return (
            f"{self._site} trained with it in stage {when[0]}, round {when[1]}, and without it the student is wrong "
            "there: put the file back from a backup; where there is none, the federation has to begin anew for this "
            "site"
        )


def _trained_in(entry: Entry) -> When | None:
    if entry.message != _TRAIN or entry.verdict != SENT:
        return None
    return None if entry.stage is None or entry.server_round is None else (entry.stage, entry.server_round)


def _is_of_before(entry: Entry, arrival: int) -> bool:
    """Say whether a ledger's entry is from before a site's first round was over, when it had nothing to lose."""
    if entry.stage is None:
        return False
    first = entry.message == _TRAIN and (entry.stage, entry.server_round) == (arrival, 1)
    return entry.stage < arrival or first
