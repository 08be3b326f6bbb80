"""The adapters that a hospital keeps for itself, one for each round that it trained in: none of them leaves."""

from pathlib import Path

import torch

from fedserdiff.config import ExperimentConfig
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.files import write_whole


def save_adapter(folder: Path, adapter: SiteAdapter, stage: int, server_round: int) -> None:
    """Keep an adapter as it is after a round, both counted from 1.

    Those of earlier rounds stay: a round that is asked for again begins where it began the first time.
    """
    state = adapter.state_dict()
    write_whole(folder / f"adapter-{stage}-{server_round}.pt", lambda opened: torch.save(state, opened))


def load_adapter(folder: Path, config: ExperimentConfig, before: tuple[int, int]) -> SiteAdapter | None:
    """Return the newest adapter from before a stage and round, on the CPU; None where there is none."""
    kept = {}
    for file in folder.glob("adapter-*-*.pt"):
        _, stage, server_round = file.stem.split("-")
        kept[int(stage), int(server_round)] = file
    earlier = [when for when in kept if when < before]
    if not earlier:
        return None
    adapter = SiteAdapter(len(config.modalities))
    adapter.load_state_dict(torch.load(kept[max(earlier)], weights_only=True, map_location="cpu"))
    return adapter
