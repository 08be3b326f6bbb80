"""A hospital's own adapters, one for each round that it trained in: they never leave."""

from pathlib import Path

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.settings.experiment import Settings
from sites.kept_rounds import KeptRounds, When


def learns_adapter(config: Settings, site: str) -> bool:
    """Return whether a site learns an adapter: if the method has adapters, all sites except those of stage 1 do."""
    return getattr(config.method, "inversion_steps", 0) > 0 and not any(
        site in first for first in config.timetable.training[:1]
    )


def save_adapter(folder: Path, config: Settings, site: str, adapter: SiteAdapter, when: When) -> None:
    """Save a site's adapter after a round."""
    _kept(folder, config, site).save(adapter.state_dict(), when)


def load_adapter(folder: Path, config: Settings, site: str, before: When) -> SiteAdapter | None:
    """Load a site's newest adapter from before a stage and round, on the CPU; return None if there is none yet.

    Raises
    ------
    RecordsError, DataError
        As in `KeptRounds.load`.
    """
    if not learns_adapter(config, site):
        return None
    adapter = SiteAdapter(len(config.data.modalities))
    state = _kept(folder, config, site).load(before, adapter.state_dict())
    if state is None:
        return None
    adapter.load_state_dict(state)
    return adapter


def _kept(folder: Path, config: Settings, site: str) -> KeptRounds:
    return KeptRounds(folder, "adapter", config, site)
