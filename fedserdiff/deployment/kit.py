"""Reading of the folders that `provision` writes for the coordinator and each hospital of a federation."""

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
"""File in the coordinator's folder with the experiment, the address, and every site's public key."""

SITE_FILE = "site.toml"
"""File in a hospital's folder with everything that only that hospital decides and knows."""

EXPERIMENT_FILE = "experiment.json"
"""File in a hospital's folder with the experiment, without any information about hospitals' data."""

CA_FILE = "ca.crt"
"""File in the coordinator's and every hospital's folder with the certificate of the federation's authority."""

NODE_KEY_FILE = "node.key"
"""File in a hospital's folder with the private key that identifies its node."""

EGRESS_LIMITS = ("max_update_rms", "egress_quota_mb")
"""Settings of the experiment that a hospital may lower for itself."""

_FEDERATION_FIELDS = {"experiment": dict, "address": str, "sites": list}
_KEY_FIELDS = {"name": str, "release": str, "public_key": str}
_SITE_FIELDS = {
    "name": str, "release": str, "coordinator": str, "data": str, "cache": str, **dict.fromkeys(CASE_FIELDS, list),
    "cpus": int, "gpus": int, "egress": dict, "statistics": bool, "allow": list,
}  # fmt: skip
_OWN_SETTINGS = {
    "cpus": "machine.cpus_per_site", "gpus": "machine.gpus_per_site", "statistics": "privacy.statistics",
}  # fmt: skip
_SITE_REQUIRED = ("name", "release", "coordinator", "data")


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's folder.

    Attributes
    ----------
    folder : Path
        Absolute path.
    config : Settings
        Settings whose sites have neither paths nor cases, which only the hospitals know.
    address : str
        Address at which hospitals reach the coordinator, ``host:port``.
    keys : mapping of str to bytes
        Every site's public key, in the format of Flower's SuperLink (`node_key_bytes`), by site name.
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
            If there is a mistake. The message names the file and field of the first one.
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
                raise ConfigError(f"{where}: public_key: an earlier site has the same key: each needs its own")
            keys[entry["name"]] = key
            named.append((entry["name"], entry["release"]))
        if named != [(site.name, site.release) for site in config.sites]:
            raise ConfigError(f"{file}: sites: names, releases or their order differ from the experiment's")
        return cls(folder.resolve(), config, values["address"], keys)


@dataclass(frozen=True)
class HospitalKit:
    """One hospital's folder.

    Attributes
    ----------
    folder : Path
        Absolute path.
    config : Settings
        The experiment. Only this hospital's `Site` has data and cases, and egress limits are the stricter of the
        experiment's and the hospital's own.
    site : int
        Index of this hospital in ``config.sites``.
    cache : Path
        Absolute path of the folder of prepared cases, which need not exist yet.
    coordinator : str
        Address of the coordinator, ``host:port``.
    """

    folder: Path
    config: Settings
    site: int
    cache: Path
    coordinator: str

    @property
    def ca(self) -> Path:
        """Certificate of the authority that signed the coordinator's certificate."""
        return self.folder / CA_FILE

    @property
    def key(self) -> Path:
        """Private key that identifies this hospital's node."""
        return self.folder / NODE_KEY_FILE

    @property
    def records(self) -> Path:
        """Folder of the hospital's own records of the federation, which need not exist yet."""
        return self.folder / "records"

    @classmethod
    def load(cls, file_or_folder: Path) -> "HospitalKit":
        """Read the folder that `provision` wrote for a hospital, given as the folder or its ``site.toml``.

        Paths in ``site.toml`` are relative to the file.

        Raises
        ------
        ConfigError
            If there is a mistake, or the scans, key or certificate are missing; the message names the file and field
            of the first fault. Also if the experiment names third-party code that ``site.toml`` does not allow; such
            code is never imported.
        """
        file = file_or_folder / SITE_FILE if file_or_folder.is_dir() else file_or_folder
        folder = file.parent.resolve()
        entry = read_toml(file)
        check_fields(entry, _SITE_FIELDS, _SITE_REQUIRED, str(file))
        values = read_json(folder / EXPERIMENT_FILE)
        allow = entry.get("allow", [])
        if not all(isinstance(name, str) for name in allow):
            raise ConfigError(f"{file}: allow: every name of a method, network or release must be a string")
        if refused := not_allowed(values, allow):
            raise ConfigError(
                f"{file}: allow: {refused}, with access to this hospital's scans: if you have read and trust it, add "
                'its name to the list, allow = ["NAME"]'
            )
        config = _experiment(values, str(folder / EXPERIMENT_FILE))
        number = _place(entry, config, file)
        cases = cases_of(entry, str(file))
        split_address(entry["coordinator"], f"{file}: coordinator")
        data = (folder / entry["data"]).resolve()
        if not data.is_dir():
            raise ConfigError(f"{file}: data: {data} is not a directory: set data to the folder of the scans")
        sites = list(config.sites)
        sites[number] = replace(sites[number], path=str(data), **cases)
        limits = _stricter(entry.get("egress", {}), config, f"{file}: egress")
        for field, setting in _OWN_SETTINGS.items():
            if field in entry:
                limits[setting] = entry[field]
        cache = folder / entry.get("cache", "cache")
        try:
            config = config.replace(limits, sites=tuple(sites))
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        kit = cls(folder, config, number, cache, entry["coordinator"])
        for needed in (kit.ca, kit.key):
            if not needed.is_file():
                raise ConfigError(f"{needed}: is missing: copy the complete folder provisioned for this hospital")
        return kit


def deployable(config: Settings) -> Settings:
    """Return the part of an experiment that all participants may know: without any site's path and cases.

    Raises
    ------
    ConfigError
        If the method breaks privacy, there is no site, or a site's name is invalid or used twice.
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
    """Return the index of the experiment's site that a hospital's file names."""
    names = [site.name for site in config.sites]
    if entry["name"] not in names:
        raise ConfigError(
            f"{file}: name: {entry['name']!r} is not a site of the experiment: choose from {', '.join(names)}"
        )
    number = names.index(entry["name"])
    agreed = config.sites[number].release
    if entry["release"] != agreed:
        raise ConfigError(
            f"{file}: release: {entry['release']!r} differs from the experiment's release for this site, {agreed!r}"
        )
    return number


def _stricter(own: Mapping[str, Any], config: Settings, where: str) -> dict[str, float]:
    """Return, for each limit that a hospital sets, the lower of its own and the experiment's."""
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
