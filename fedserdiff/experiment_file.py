"""An experiment's file: TOML that names hospitals, a profile and settings, each if you like; or a run's config.json."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import PROVENANCE
from fedserdiff.settings.sources import DEFAULT_PROFILE, Layers, layers_of, read_toml, source_of
from fedserdiff.text import read_json

PHANTOM = "phantom"
"""What results say of data that are phantoms."""

CHANNELS = ("modalities", "regions")
"""What a file may declare above its first site as well as in ``[data]``."""

_JSON = ".json"
_OF_HOSPITALS = ("site", "release", "name_mapping")


def read_experiment(file: Path) -> dict[str, Any]:
    """Return the tables of an experiment's file; a run's ``config.json`` has its hospitals as ``site``, too.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is no valid TOML or JSON.
    """
    if file.suffix != _JSON:
        if not (tables := read_toml(file)):
            raise ConfigError(f"{file}: is empty: it names no [[site]] and no setting")
        return tables
    tables = read_json(file)
    if PROVENANCE not in tables:
        raise ConfigError(f"{file}: is no run's config.json")
    sites = tables.pop("sites", [])
    return {"site": list(map(_as_written, sites)) if isinstance(sites, list) else sites, **tables}


def layers_of_file(file: Path, profile: str | None = None) -> Layers:
    """Return the layers of settings that an experiment's file has; `profile` takes the place of the one it names.

    Raises
    ------
    ConfigError
        As for `read_experiment`, `layers_of` and `source_of`, and if a profile is named beside a run's ``config.json``.
    """
    tables = read_experiment(file)
    own = {name: value for name, value in tables.items() if name not in (*_OF_HOSPITALS, *CHANNELS, PROVENANCE)}
    source = source_of(own, str(file))
    channels = {f"data.{name}": tables[name] for name in CHANNELS if name in tables}
    values = {**source.values, **channels}
    named = tables.get("profile", DEFAULT_PROFILE)
    if not isinstance(named, str):
        raise ConfigError(f"{file}: profile: {named!r} is not a profile's name")
    if PROVENANCE in tables:  # which holds every setting
        if profile is not None:
            raise ConfigError(f"{file}: holds every setting: --profile {profile} would change none: set some by --set")
        below = Layers(named, ())
    else:
        try:
            below = layers_of(profile or _beside(file, named))
        except ConfigError as error:
            raise error if profile else ConfigError(f"{file}: {error}") from None
    return Layers(below.profile, (*below.sources, replace(source, values=values)))


def hospitals_of(file: Path | None, phantoms: int | None = None) -> Path | None:
    """Return the file where it names hospitals that have scans of their own; None where its hospitals are phantoms.

    Raises
    ------
    ConfigError
        As for `read_experiment`, and if it names hospitals though a number of `phantoms` is asked for.
    """
    if file is None:
        return None
    tables = read_experiment(file)
    if not tables.get("site") or _phantoms(tables):
        return None
    if phantoms is not None:
        raise ConfigError(f"--sites: {file} names the hospitals: leave one of them out")
    return file


def phantoms_of(file: Path | None) -> int | None:
    """Return how many phantom hospitals a run's ``config.json`` has; None for any other file."""
    tables = {} if file is None else read_experiment(file)
    return len(tables["site"]) if _phantoms(tables) else None


def _as_written(site: Any) -> Any:
    """Return a site of a run as a person writes one: what is empty is left out."""
    return {name: value for name, value in site.items() if value != []} if isinstance(site, Mapping) else site


def _phantoms(tables: Mapping[str, Any]) -> bool:
    provenance = tables.get(PROVENANCE)
    return isinstance(provenance, Mapping) and provenance.get("name") == PHANTOM


def _beside(file: Path, profile: str) -> str:
    """Return a profile's name, or the path of a file of the user's, which is relative to the file that names it."""
    own = file.parent / profile
    return str(own) if profile.endswith(".toml") and own.is_file() else profile
