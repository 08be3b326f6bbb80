"""The hospitals of a federation: those that an experiment file names in order of arrival, or phantom hospitals."""

import difflib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fedserdiff.data.decathlon import MSD
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.phantom.site import phantom_site
from fedserdiff.data.releases import FILE_END, RELEASES, Release, own_release, read_release_file
from fedserdiff.data.site_cases import check_release
from fedserdiff.errors import ConfigError, Faults
from fedserdiff.experiment_file import CHANNELS, read_experiment
from fedserdiff.settings.experiment import CASE_FIELDS, GROUPS, PROVENANCE, Settings, Site

_FIELDS = {"name": str, "release": str, "path": str, **dict.fromkeys(CASE_FIELDS, list)}
_OF_ALL_SITES = {"name_mapping": str, "modalities": list, "regions": list}
# `fedserdiff.experiment_file` reads them
_OF_SETTINGS = (
    "profile",
    "seed",
    "method",
    "methods",
    "stages",
    PROVENANCE,
    *GROUPS,
)
_CHANNEL_EXAMPLES = {"modalities": 'modalities = ["T2", "ADC"]', "regions": 'regions = ["PZ", "TZ"]'}
_REQUIRED_ANYWHERE = ("name", "release")
_REQUIRED = (*_REQUIRED_ANYWHERE, "path")


def read_federation(file: Path, paths: bool = True) -> tuple[Site, ...]:
    """Read a federation file: one ``[[site]]`` with `name`, `release` and `path` per hospital.

    A site's release is one of `fedserdiff.data.releases`, one that a ``[[release]]`` of the file declares, or the path
    of a TOML file that declares one. Optional fields are `cases` (use only these), `test_cases` and `validation_cases`
    (hold out only these) and, above the first site, ``name_mapping`` (read by `name_mapping_of`). `layers_of_file`
    reads the settings in the same file.

    Paths are relative to the file. Sites arrive in the file's order. Without `paths`, the scans are on other machines:
    `path` is optional and need not exist here.

    Raises
    ------
    ConfigError
        If the file has mistakes. The message names the file, site and field of each.
    """
    tables = read_experiment(file)
    data = tables.get("data", {})
    tables = {name: value for name, value in tables.items() if name not in _OF_SETTINGS}
    entries = tables.pop("site", None)
    faults = Faults(ConfigError)
    releases: dict[str, Release] = {}
    with faults.caught():
        releases = _declared(tables.pop("release", []), file)
    with faults.caught():
        unknown = sorted(set(tables) - set(_OF_ALL_SITES))
        if unknown:
            known = ", ".join((*_OF_ALL_SITES, *_OF_SETTINGS))
            raise ConfigError(
                f"{file}: unknown entry {', '.join(unknown)}: choose from {known}, [[release]] and [[site]]"
            )
        check_fields(tables, _OF_ALL_SITES, (), str(file))
    if not isinstance(entries, list) or not entries:
        faults.add(f"{file}: no [[site]]: name at least one hospital")
        entries = []
    sites: list[Site] = []
    for number, entry in enumerate(entries, 1):
        with faults.caught():
            site = _site(entry, f"{file}: site {number}", file.parent, paths, releases)
            if site.name in (s.name for s in sites):
                raise ConfigError(f"{file}: site {number}: name: {site.name!r} is taken by an earlier site")
            sites.append(site)
    for field in CHANNELS:
        if field not in tables and field not in data and any(site.release == MSD for site in sites):
            faults.add(
                f"{file}: {field}: is missing: list above the first [[site]] what all sites share, with the names in "
                f"their dataset.json, such as {_CHANNEL_EXAMPLES[field]}"
            )
    faults.check()
    return tuple(sites)


def name_mapping_of(file: Path) -> Path | None:
    """Return the path of a federation file's ``name_mapping``, a table of patients' names; None if it has none.

    The path is relative to the federation file. `fedserdiff.data.name_mapping.read_name_mapping` reads the table.

    Raises
    ------
    ConfigError
        As for `read_toml`, and if the entry is not a path.
    """
    given = _of_all_sites(file)
    return (file.parent / given["name_mapping"]).resolve() if "name_mapping" in given else None


def _of_all_sites(file: Path) -> dict[str, Any]:
    given = {name: value for name, value in read_experiment(file).items() if name in _OF_ALL_SITES}
    check_fields(given, _OF_ALL_SITES, (), str(file))
    return given


def _declared(tables: Any, file: Path) -> dict[str, Release]:
    """Return the releases that a file declares, by name."""
    if not isinstance(tables, list):
        raise ConfigError(f"{file}: release: write each release as a [[release]] table")
    releases: dict[str, Release] = {}
    faults = Faults(ConfigError)
    for number, table in enumerate(tables, 1):
        where = f"{file}: release {number}"
        with faults.caught():
            release = own_release(table, where)
            if release.name in releases:
                raise ConfigError(f"{where}: name: {release.name!r} is taken by an earlier release")
            releases[release.name] = release
    faults.check()
    return releases


def _release_of(stated: Any, where: str, base: Path, releases: Mapping[str, Release]) -> Release | None:
    """Return the release that a site's entry declares, as a table or file; None for the name of a known release."""
    if isinstance(stated, dict):  # from a run's config.json
        return own_release(stated, f"{where}: release")
    if isinstance(stated, str) and stated.endswith(FILE_END):
        try:
            return read_release_file(base / stated)
        except ConfigError as error:
            raise ConfigError(*(f"{where}: release: {fault}" for fault in error.faults)) from None
    if not isinstance(stated, str) or stated in releases:
        return releases.get(stated) if isinstance(stated, str) else None
    if stated not in RELEASES and (close := difflib.get_close_matches(stated, releases, 1)):
        raise ConfigError(f"{where}: release: unknown release {stated!r}: did you mean {close[0]}, declared above?")
    return None


def _site(entry: Any, where: str, base: Path, paths: bool, releases: Mapping[str, Release]) -> Site:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: write it as a [[site]] table")
    for field in _OF_ALL_SITES:
        if field in entry:  # in TOML, everything below a [[site]] belongs to it
            raise ConfigError(f"{where}: {field}: applies to all sites: write it above the first [[site]]")
    declared = _release_of(entry.get("release"), where, base, releases)
    if declared is not None:
        entry = {**entry, "release": declared.name}
    check_fields(entry, _FIELDS, _REQUIRED if paths else _REQUIRED_ANYWHERE, where)
    site = Site(entry["name"], entry["release"], "", **cases_of(entry, where), declared=declared)
    check_site(site, where)
    if not paths:  # do not follow symbolic links of this machine
        return replace(site, path=os.path.abspath(base / entry["path"]) if "path" in entry else "")
    folder = (base / entry["path"]).resolve()
    if not folder.is_dir():
        raise ConfigError(f"{where}: path: {folder} is not a directory")
    return replace(site, path=str(folder))


def check_fields(entry: Mapping[str, Any], known: Mapping[str, type], required: Collection[str], where: str) -> None:
    """Check that a table has all `required` fields, only `known` ones, and each non-empty and of its type.

    Raises
    ------
    ConfigError
        If a field is missing, unknown, empty or of another type. The message names each, after `where`.
    """
    faults = Faults(ConfigError)
    for field in required:
        if field not in entry:
            faults.add(f"{where}: {field}: is missing")
    for field, value in entry.items():
        if field not in known:
            faults.add(f"{where}: {field}: unknown field: choose from {', '.join(known)}")
        elif not isinstance(value, known[field]) or value in ("", []):
            faults.add(f"{where}: {field}: {value!r} is not a filled {known[field].__name__}")
    faults.check()


def cases_of(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a `Site` that name cases, from a site's table; empty if it names none.

    Raises
    ------
    ConfigError
        If a case is not a string, is held out without being one of `cases`, or is held out twice.
    """
    named = {field: tuple(entry.get(field, ())) for field in CASE_FIELDS}
    for field, names in named.items():
        if not all(isinstance(case, str) for case in names):
            raise ConfigError(f"{where}: {field}: every case name must be a string")
        if field != "cases" and named["cases"] and (others := sorted(set(names) - set(named["cases"]))):
            raise ConfigError(f"{where}: {field}: {others[0]!r} is not one of the site's cases")
    if twice := sorted(set(named["test_cases"]) & set(named["validation_cases"])):
        raise ConfigError(f"{where}: validation_cases: {twice[0]!r} is also one of the test_cases")
    return named


def check_site(site: Site, where: str) -> None:
    """Check that a site's name is valid as a folder name and that its release is known.

    Raises
    ------
    ConfigError
        If one of them is not. The message names the field, after `where`.
    """
    name = site.name
    if not set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."):
        raise ConfigError(f"{where}: name: {name!r} may hold letters, digits, '-', '_' and '.' only")
    if not name.strip("."):  # a site's records are in a folder with its name
        raise ConfigError(f"{where}: name: {name!r} is not a name for a folder")
    try:
        check_release(site)
    except ConfigError as error:
        raise ConfigError(f"{where}: release: {error}") from None


def phantom_federation(
    count: int,
    config: Settings,
    root: Path,
    progress: Callable[[str, int, int], None] = lambda site, done, total: None,
) -> tuple[Site, ...]:
    """Write `count` phantom hospitals under `root`, if they do not exist yet, and return them in order of arrival.

    Raises
    ------
    ConfigError
        If `count` is less than 1.
    DataError
        As in `phantom_site`.
    """
    if count < 1:
        raise ConfigError(f"sites: {count} is less than 1")
    return tuple(written_phantom(index, config, root, progress) for index in range(count))


def written_phantom(
    index: int,
    config: Settings,
    root: Path,
    progress: Callable[[str, int, int], None] = lambda site, done, total: None,
) -> Site:
    """Write the phantom hospital at position `index` under `root`, if it does not exist yet; raise as `phantom_site`.

    `progress` is called with the hospital's name, the number of cases written and their total.
    """
    site, patients = phantom_site(index, config)
    data, count = config.data, len(set(patients.values()))
    folder = write_phantom_hospital(
        root, data.phantom_stream, index, count, data.spacing_mm, config.seed, partial(progress, site.name)
    )
    return replace(site, path=str(folder.resolve()))
