"""The adapters that a hospital keeps for itself, one for each round that it trained in: none of them leaves."""

import re
from pathlib import Path

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.errors import DataError, RecordsError
from fedserdiff.files import write_whole
from fedserdiff.model_file import read_weights
from fedserdiff.settings.experiment import Settings
from sites.ledger import LEDGER_FILE, SENT, Entry, read_ledger

_TRAIN = "train"  # the type of Flower's message; who segments scans does not wait for Flower
_NAME = re.compile(r"adapter-(\d+)-(\d+)\.pt")

When = tuple[int, int]
"""A stage and a round of it, both from 1."""


def learns_adapter(config: Settings, site: str) -> bool:
    """Say whether a site learns an adapter as it trains: by a method that has them every one but the first does."""
    first = [one.name for one in config.sites[:1]]
    return getattr(config.method, "inversion_steps", 0) > 0 and site not in first


def save_adapter(folder: Path, adapter: SiteAdapter, stage: int, server_round: int) -> None:
    """Keep an adapter as it is after a round, both counted from 1.

    Those of earlier rounds stay: a round that is asked for again begins where it began the first time.
    """
    state = adapter.state_dict()
    write_whole(_file(folder, (stage, server_round)), lambda opened: torch.save(state, opened))


def load_adapter(folder: Path, config: Settings, site: str, before: When) -> SiteAdapter | None:
    """Return a site's newest adapter from before a stage and round, on the CPU; None where it has learnt none by then.

    Raises
    ------
    RecordsError
        Where the newest that the site has trained is missing or damaged: an older one, or none, gives other masks.
    DataError
        As `read_ledger`.
    """
    if not learns_adapter(config, site):
        return None
    kept = max((when for when in _kept(folder) if when < before), default=None)
    needed = _newest_trained(folder, config, site, before)
    if needed is not None and (kept is None or kept < needed):
        raise RecordsError(f"{_file(folder, needed)}: is missing: {_what_to_do(site, needed)}")
    if kept is None:
        return None
    adapter = SiteAdapter(len(config.data.modalities))
    try:
        read_weights(_file(folder, kept), adapter)
    except DataError as error:
        raise RecordsError(f"{error}: {_what_to_do(site, kept)}") from None
    return adapter


def _file(folder: Path, when: When) -> Path:
    return folder / f"adapter-{when[0]}-{when[1]}.pt"


def _kept(folder: Path) -> list[When]:
    names = [_NAME.fullmatch(file.name) for file in folder.glob("adapter-*.pt")]
    return [(int(name[1]), int(name[2])) for name in names if name]


def _newest_trained(folder: Path, config: Settings, site: str, before: When) -> When | None:
    """Return the last round before `before` in which a site has trained for certain; None where it may have in none.

    In its own stage a site that trains alone has trained in every round, or the stage would have failed. In a
    cumulative stage the coordinator may go on without it: then the ledger tells, unless it was begun anew since, with
    everything else in the folder.
    """
    names = [one.name for one in config.sites]
    arrival = names.index(site) + 1 if site in names else None
    planned = None
    if arrival is not None:
        last = arrival if config.training.participation == "arriving" else len(names)
        rounds = [(stage, one) for stage in range(arrival, last + 1) for one in range(1, config.training.rounds + 1)]
        planned = max((when for when in rounds if when < before), default=None)
        if planned is None or config.training.participation == "arriving":
            return planned
    ledger = folder / LEDGER_FILE
    entries = read_ledger(ledger) if ledger.is_file() else ()
    sent = [when for when in map(_trained_in, entries) if when is not None and when < before]
    begun_anew = arrival is not None and not any(_is_of_before(entry, arrival) for entry in entries)
    return max(sent, default=planned if begun_anew else None)


def _trained_in(entry: Entry) -> When | None:
    if entry.message != _TRAIN or entry.verdict != SENT:
        return None
    return None if entry.stage is None or entry.server_round is None else (entry.stage, entry.server_round)


def _is_of_before(entry: Entry, arrival: int) -> bool:
    """Say whether a ledger's entry is from before a site's first round was over, when it had no adapter to lose."""
    if entry.stage is None:
        return False
    first = entry.message == _TRAIN and (entry.stage, entry.server_round) == (arrival, 1)
    return entry.stage < arrival or first


def _what_to_do(site: str, when: When) -> str:
    return (
        f"{site} trained behind this adapter in stage {when[0]}, round {when[1]}, and without it the student is wrong "
        "there: put the file back from a backup; where there is none, the federation has to begin anew for this site"
    )
