"""The origin of a run's result: settings, software, and the content of every site's scans.

A result is found by its name, but is valid only for its origin. Code that continues a run, or uses a finished one,
compares origins first.
"""

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import CASE_FIELDS, PROVENANCE, Settings, Site
from fedserdiff.settings.foreign import packages

_VERSIONED = ("fedserdiff", "flwr", "ray", "torch", "monai", "nibabel", "nilearn", "numpy", "scipy")

Scans = Mapping[str, str]
"""Hash, by site, of the content of all its scans and segmentations, and of the choice of those held out."""


@dataclass(frozen=True)
class Difference:
    """The differences between a run and a requested one, as texts; empty if there are none.

    Attributes
    ----------
    settings : tuple of str
        Settings that affect the result. Settings of the machine and for handling failures do not.
    versions : tuple of str
        Versions of the software.
    scans : tuple of str
        Sites with other scans, or another choice of them.
    """

    settings: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.settings or self.versions or self.scans)

    def __str__(self) -> str:
        return "; ".join((*self.settings, *self.versions, *self.scans))


@dataclass(frozen=True)
class Origin:
    """The origin of a run, as recorded in its ``config.json``.

    Attributes
    ----------
    config : Settings
        Settings, with the cases of every site by name.
    versions : mapping
        Versions of the software.
    name : str
        Name of the data.
    overlap : mapping
        As in ``results.json``.
    scans : Scans
        Hashes of the sites' scans; empty for a run without its own scans, such as a deployed coordinator's.
    skipped : sequence of mapping
        As in ``results.json``.
    show_cases : bool
        Whether pictures of cases were requested.
    """

    config: Settings
    versions: Mapping[str, str]
    name: str
    overlap: Mapping[str, Any]
    scans: Scans
    skipped: Sequence[Mapping[str, Any]] = ()
    show_cases: bool = False

    @property
    def provenance(self) -> dict[str, Any]:
        """The part of ``config.json`` beside the settings, as `from_dict` reads it."""
        return {
            "versions": dict(self.versions),
            "name": self.name,
            "overlap": self.overlap,
            "skipped": self.skipped,
            "scans": self.scans,
            "show_cases": self.show_cases,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Origin":
        """Rebuild the origin from the ``config.json`` of a simulation.

        Raises
        ------
        ConfigError
            If the values are not what a simulation of this version writes.
        """
        try:
            data = values[PROVENANCE]
            config = Settings.from_dict(values)
            return cls(
                config,
                dict(data["versions"]),
                data["name"],
                data["overlap"],
                dict(data["scans"]),
                list(data.get("skipped", ())),
                bool(data.get("show_cases", False)),
            )
        except (TypeError, AttributeError, KeyError, ValueError):
            raise ConfigError("is not the config.json of a run of this version") from None

    def difference(self, config: Settings, scans: Scans) -> Difference:
        """Return how this run differs from one with `config`, on `scans`, with the installed software."""
        theirs = self.config
        settings = differences(theirs.deciding, config.deciding)
        if _named(theirs) != _named(config):
            settings.append(f"sites were {_named(theirs)}, are {_named(config)}")
        else:
            pairs = zip(theirs.sites, config.sites, strict=True)
            others = [one.release for one, now in pairs if one.stated_release != now.stated_release]
            settings += [f"release {name} was declared differently" for name in dict.fromkeys(others)]
        cases = {site.name: _cases(site) for site in theirs.sites}
        of_others = [site.name for site in config.sites if cases.get(site.name) != _cases(site)]
        changed = [name for name in scans if name not in of_others and self.scans.get(name) != scans[name]]
        told = [f"other cases of {', '.join(of_others)}"] if of_others else []
        told += [f"scans or segmentations of {', '.join(changed)} have changed"] if changed else []
        return Difference(tuple(settings), tuple(other_versions(self.versions)), tuple(told))


def _cases(site: Site) -> list[tuple[str, ...]]:
    return [getattr(site, field) for field in CASE_FIELDS]


def _named(config: Settings) -> str:
    return ", ".join(f"{site.name} ({site.release})" for site in config.sites)


def installed_versions(config: Settings | None = None) -> dict[str, str]:
    """Return the versions of all packages that a result may depend on, including those that `config` names."""
    others = {} if config is None else packages(config.to_dict())
    return {**{name: version(name) for name in _VERSIONED}, **others, "python": platform.python_version()}


def other_versions(versions: Mapping[str, str]) -> list[str]:
    """Return which of `versions` differ from the installed ones; Python's is ignored, as it does not change results."""
    now = installed_versions()
    for name in versions:
        with suppress(PackageNotFoundError):
            now.setdefault(name, version(name))
    return [
        f"{name} {made} then, {now.get(name, 'none')} now"
        for name, made in versions.items()
        if name != "python" and now.get(name) != made
    ]


def differences(was: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the differing settings of two experiments, as texts; of two methods, only the names are compared."""
    names = dict.fromkeys((*was, *wanted))
    if was.get("method.name") != wanted.get("method.name"):
        names = {name: None for name in names if name == "method.name" or not name.startswith("method.")}
    return [
        f"{name} was {was.get(name)!r}, is {wanted.get(name)!r}" for name in names if was.get(name) != wanted.get(name)
    ]
