"""Experiment files: TOML with hospitals, a profile and settings, all optional; or the config.json of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import CASE_FIELDS, PROVENANCE, Site
from fedserdiff.settings.sources import DEFAULT_PROFILE, Layers, as_toml, layers_of, read_toml, source_of
from fedserdiff.text import read_json

PHANTOM = "phantom"
"""Name of phantom data in results."""

CHANNELS = ("modalities", "regions")
"""Settings that a file may declare above its first site as well as in ``[data]``."""

_JSON = ".json"
_OF_HOSPITALS = ("site", "release", "name_mapping")


def read_experiment(file: Path) -> dict[str, Any]:
    """Return the tables of an experiment file; the hospitals of a run's ``config.json`` are also under ``site``.

    Raises
    ------
    ConfigError
        If the file cannot be read, or is not valid TOML or JSON.
    """
    if file.suffix != _JSON:
        if not (tables := read_toml(file)):
            raise ConfigError(f"{file}: is empty: expected a [[site]] or a setting")
        if "stage" in tables:  # a table for each, hence the singular
            tables["stages"] = tables.pop("stage")
        return tables
    tables = read_json(file)
    if PROVENANCE not in tables:
        raise ConfigError(f"{file}: is not the config.json of a run")
    sites = tables.pop("sites", [])
    return {"site": list(map(_as_written, sites)) if isinstance(sites, list) else sites, **tables}


def layers_of_file(file: Path, profile: str | None = None) -> Layers:
    """Return the layers of settings of an experiment file; `profile` replaces the profile that it names.

    Raises
    ------
    ConfigError
        As for `read_experiment`, `layers_of` and `source_of`, and if `profile` is given with a run's ``config.json``.
    """
    tables = read_experiment(file)
    own = {name: value for name, value in tables.items() if name not in (*_OF_HOSPITALS, *CHANNELS, PROVENANCE)}
    source = source_of(own, str(file))
    channels = {f"data.{name}": tables[name] for name in CHANNELS if name in tables}
    values = {**source.values, **channels}
    named = tables.get("profile", DEFAULT_PROFILE)
    if not isinstance(named, str):
        raise ConfigError(f"{file}: profile: {named!r} is not a profile's name")
    if PROVENANCE in tables:  # it holds every setting
        if profile is not None:
            raise ConfigError(
                f"{file}: holds every setting, so --profile {profile} has no effect: change settings with --set"
            )
        below = Layers(named, ())
    else:
        try:
            below = layers_of(profile or _beside(file, named))
        except ConfigError as error:
            raise error if profile else ConfigError(f"{file}: {error}") from None
    return Layers(below.profile, (*below.sources, replace(source, values=values)))


def hospitals_of(file: Path | None, phantoms: int | None = None) -> Path | None:
    """Return the file if it names hospitals with their own scans; None if its hospitals are phantoms.

    Raises
    ------
    ConfigError
        As for `read_experiment`, and if the file names hospitals although a number of `phantoms` is requested.
    """
    if file is None:
        return None
    tables = read_experiment(file)
    if not tables.get("site") or _phantoms(tables):
        return None
    if phantoms is not None:
        raise ConfigError(f"--sites: {file} already names the hospitals: leave --sites out")
    return file


def phantoms_of(file: Path | None) -> int | None:
    """Return the number of phantom hospitals in a run's ``config.json``; None for any other file."""
    tables = {} if file is None else read_experiment(file)
    return len(tables["site"]) if _phantoms(tables) else None


def _as_written(site: Any) -> Any:
    """Return a site of a run without its empty fields, as a person would write it."""
    return {name: value for name, value in site.items() if value != []} if isinstance(site, Mapping) else site


def _phantoms(tables: Mapping[str, Any]) -> bool:
    provenance = tables.get(PROVENANCE)
    return isinstance(provenance, Mapping) and provenance.get("name") == PHANTOM


def _beside(file: Path, profile: str) -> str:
    """Return a profile's name, or the path of the user's profile file, which is relative to the experiment file."""
    own = file.parent / profile
    return str(own) if profile.endswith(".toml") and own.is_file() else profile


def site_lines(site: Site) -> list[str]:
    """Return the lines of a site's ``[[site]]`` table, with its path as it is and without fields that are empty."""
    fields = {field: getattr(site, field) for field in ("name", "release", "path", *CASE_FIELDS)}
    return ["[[site]]", *(f"{field} = {as_toml(value)}" for field, value in fields.items() if value)]
