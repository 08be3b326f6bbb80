"""What the coordinator and each hospital hold of one federation: the folders that `provision` writes, read back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedserdiff.deployment.address import split_address
from fedserdiff.deployment.certificates import node_key_bytes
from fedserdiff.errors import ConfigError
from fedserdiff.federation import cases_of, check_fields, check_site
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import CASE_FIELDS, Settings, Site
from fedserdiff.settings.foreign import not_allowed
from fedserdiff.settings.sources import read_toml
from fedserdiff.text import read_json

FEDERATION_FILE = "federation.json"
"""In the coordinator's folder: the experiment, the address, and every site's public key."""

SITE_FILE = "site.toml"
"""In a hospital's folder: what that hospital alone decides and knows."""

EXPERIMENT_FILE = "experiment.json"
"""In a hospital's folder: the experiment, without anything about any hospital's data."""

CA_FILE = "ca.crt"
"""In the coordinator's folder and in every hospital's: the authority that vouches for the coordinator."""

NODE_KEY_FILE = "node.key"
"""In a hospital's folder: the private key by which its node is known."""

EGRESS_LIMITS = ("max_update_rms", "egress_quota_mb")
"""Fields of the experiment that a hospital may lower for itself."""

_FEDERATION_FIELDS = {"experiment": dict, "address": str, "sites": list}
_KEY_FIELDS = {"name": str, "release": str, "public_key": str}
_SITE_FIELDS = {
    "name": str, "release": str, "coordinator": str, "data": str, "cache": str, **dict.fromkeys(CASE_FIELDS, list),
    "cpus": int, "gpus": int, "egress": dict, "allow": list,
}  # fmt: skip
_SITE_REQUIRED = ("name", "release", "coordinator", "data")


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's folder.

    Attributes
    ----------
    folder : Path
        Absolute.
    config : Settings
        Its sites have neither paths nor cases: those are the hospitals' own.
    address : str
        Where hospitals reach it, ``host:port``.
    keys : mapping of str to bytes
        Every site's public key as Flower's SuperLink stores it (`node_key_bytes`), by the site's name.
    """

    folder: Path
    config: Settings
    address: str
    keys: Mapping[str, bytes]

    @classmethod
    def load(cls, folder: Path) -> "Coordinator":
        """Read the folder that `provision` wrote for the coordinator.

        Raises
        ------
        ConfigError
            Naming file and field of the first mistake found.
        """
        file = folder / FEDERATION_FILE
        values = read_json(file)
        check_fields(values, _FEDERATION_FIELDS, tuple(_FEDERATION_FIELDS), str(file))
        config = _experiment(values["experiment"], f"{file}: experiment")
        split_address(values["address"], f"{file}: address")
        keys: dict[str, bytes] = {}
        named = []
        for number, entry in enumerate(values["sites"], 1):
            where = f"{file}: site {number}"
            if not isinstance(entry, dict):
                raise ConfigError(f"{where}: {entry!r} is not an object")
            check_fields(entry, _KEY_FIELDS, tuple(_KEY_FIELDS), where)
            try:
                key = node_key_bytes(entry["public_key"].encode())
            except ConfigError as error:
                raise ConfigError(f"{where}: public_key: {error}") from None
            if key in keys.values():
                raise ConfigError(f"{where}: public_key: an earlier site has the same: every hospital needs its own")
            keys[entry["name"]] = key
            named.append((entry["name"], entry["release"]))
        if named != [(site.name, site.release) for site in config.sites]:
            raise ConfigError(f"{file}: sites: names and releases are not those of the experiment, in its order")
        return cls(folder.resolve(), config, values["address"], keys)


@dataclass(frozen=True)
class HospitalKit:
    """One hospital's folder.

    Attributes
    ----------
    folder : Path
        Absolute.
    config : Settings
        The experiment, with this hospital's data and cases in its own `Site` alone, and with the stricter of the
        experiment's limits and its own on what leaves it.
    site : int
        This hospital's place in ``config.sites``.
    cache : Path
        Folder of prepared cases; absolute, and need not exist yet.
    coordinator : str
        Where the coordinator is reached, ``host:port``.
    """

    folder: Path
    config: Settings
    site: int
    cache: Path
    coordinator: str

    @property
    def ca(self) -> Path:
        """Certificate of the authority that vouches for the coordinator."""
        return self.folder / CA_FILE

    @property
    def key(self) -> Path:
        """Private key by which this hospital's node is known."""
        return self.folder / NODE_KEY_FILE

    @property
    def records(self) -> Path:
        """Folder of what the hospital keeps of the federation; need not exist yet."""
        return self.folder / "records"

    @classmethod
    def load(cls, file_or_folder: Path) -> "HospitalKit":
        """Read the folder that `provision` wrote for a hospital, or its ``site.toml``.

        Paths in ``site.toml`` are relative to it.

        Raises
        ------
        ConfigError
            Naming file and field of the first mistake found; also where the scans, the key or the certificate are not
            there, and if the experiment names code of others that ``site.toml`` does not allow: none of it is
            imported.
        """
        file = file_or_folder / SITE_FILE if file_or_folder.is_dir() else file_or_folder
        folder = file.parent.resolve()
        entry = read_toml(file)
        check_fields(entry, _SITE_FIELDS, _SITE_REQUIRED, str(file))
        values = read_json(folder / EXPERIMENT_FILE)
        allow = entry.get("allow", [])
        if not all(isinstance(name, str) for name in allow):
            raise ConfigError(f"{file}: allow: every method, network or release is named by a string")
        if refused := not_allowed(values, allow):
            raise ConfigError(
                f"{file}: allow: {refused}, beside this hospital's scans: where you have read and trust it, write its "
                'name into the list, allow = ["NAME"]'
            )
        config = _experiment(values, str(folder / EXPERIMENT_FILE))
        number = _place(entry, config, file)
        cases = cases_of(entry, str(file))
        split_address(entry["coordinator"], f"{file}: coordinator")
        data = (folder / entry["data"]).resolve()
        if not data.is_dir():
            raise ConfigError(f"{file}: data: {data} is not a directory: write where this hospital's scans are")
        sites = list(config.sites)
        sites[number] = replace(sites[number], path=str(data), **cases)
        limits = _stricter(entry.get("egress", {}), config, f"{file}: egress")
        for field, resource in (("cpus", "machine.cpus_per_site"), ("gpus", "machine.gpus_per_site")):
            if field in entry:
                limits[resource] = entry[field]
        cache = folder / entry.get("cache", "cache")
        try:
            config = config.replace(limits, sites=tuple(sites))
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        kit = cls(folder, config, number, cache, entry["coordinator"])
        for needed in (kit.ca, kit.key):
            if not needed.is_file():
                raise ConfigError(f"{needed}: is missing: copy the whole folder that was provisioned for this hospital")
        return kit


def deployable(config: Settings) -> Settings:
    """Return what all of a federation may know of an experiment: without any site's path and cases.

    Raises
    ------
    ConfigError
        If the method breaks privacy, or a site is named wrongly, twice, or not at all.
    """
    if get_method(config.method.name).breaks_privacy:
        raise ConfigError(f"method: {config.method.name} breaks privacy: it runs in a simulation only")
    if not config.sites:
        raise ConfigError("sites: name at least one hospital")
    for number, site in enumerate(config.sites, 1):
        check_site(site, f"site {number}")
        if site.name in (earlier.name for earlier in config.sites[: number - 1]):
            raise ConfigError(f"site {number}: name: {site.name!r} is taken by an earlier site")
    sites = (Site(site.name, site.release, "", declared=site.declared) for site in config.sites)
    return config.replace(sites=tuple(sites))


def _place(entry: Mapping[str, Any], config: Settings, file: Path) -> int:
    """Return which site of the experiment a hospital says it is."""
    names = [site.name for site in config.sites]
    if entry["name"] not in names:
        raise ConfigError(
            f"{file}: name: {entry['name']!r} is no site of the experiment: choose from {', '.join(names)}"
        )
    number = names.index(entry["name"])
    agreed = config.sites[number].release
    if entry["release"] != agreed:
        raise ConfigError(f"{file}: release: {entry['release']!r} is not the experiment's for this site, {agreed!r}")
    return number


def _stricter(own: Mapping[str, Any], config: Settings, where: str) -> dict[str, float]:
    """Return the lower of each limit that a hospital sets for itself and the experiment's."""
    limits = {}
    for name, value in own.items():
        if name not in EGRESS_LIMITS:
            raise ConfigError(f"{where}: {name}: unknown field: choose from {', '.join(EGRESS_LIMITS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ConfigError(f"{where}: {name}: {value!r} is not a positive number")
        limits[f"privacy.{name}"] = min(getattr(config.privacy, name), value)
    return limits


def _experiment(values: Mapping[str, Any], where: str) -> Settings:
    try:
        return deployable(Settings.from_dict(values))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: not as it was provisioned ({type(error).__name__}: {error})") from None
