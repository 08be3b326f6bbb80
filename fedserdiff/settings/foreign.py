"""Third-party code that an experiment names. To run it from a file of someone else's, you must allow it by name.

The names are read from the file's raw values, before settings are created: creating settings imports a method.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedserdiff import methods, networks
from fedserdiff.data import releases
from fedserdiff.plugins import package_of


def foreign(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the third-party code that an experiment names: ``method``, ``network`` or ``release``, and its name.

    Parameters
    ----------
    values : mapping
        As `Settings.to_dict` writes them, but not validated: they may contain anything.
    """
    method, network = values.get("method"), values.get("network")
    method = method.get("name") if isinstance(method, Mapping) else method
    coarse = network.get("coarse") if isinstance(network, Mapping) else None
    for part in methods.parts_of(method) if isinstance(method, str) else ():
        if methods.is_foreign(part):
            yield "method", part
    if isinstance(coarse, str) and networks.is_foreign(coarse):
        yield "network", coarse
    sites = values.get("sites")
    for name in dict.fromkeys(_release(site) for site in (sites if isinstance(sites, list) else ())):
        if name is not None and releases.is_foreign(name):
            yield "release", name


def _release(site: Any) -> str | None:
    release = site.get("release") if isinstance(site, Mapping) else None
    return release if isinstance(release, str) else None


def packages(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions, by name, of the installed packages that provide an experiment's third-party code."""
    groups = {"method": methods.ENTRY_POINTS, "network": networks.ENTRY_POINTS, "release": releases.ENTRY_POINTS}
    found = (package_of(name, groups[what]) for what, name in foreign(values))
    return dict(sorted(package for package in found if package is not None))


def not_allowed(values: Mapping[str, Any], allow: Collection[str]) -> str | None:
    """Return a message about the first third-party code that `allow` does not name, or None."""
    for what, name in foreign(values):
        if name not in allow:
            return f"the {what} {name} does not come with fedserdiff, and its code would run here"
    return None
