"""Code of others that an experiment names: who runs it on a file from elsewhere allows it by name.

The names are read from the file's values before any settings are made of them, since that imports a method.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from fedserdiff import methods, networks
from fedserdiff.data import releases
from fedserdiff.plugins import package_of


def foreign(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what an experiment names of code of others: ``method``, ``network`` or ``release``, and its name.

    Parameters
    ----------
    values : mapping
        As `Settings.to_dict` writes them, unread: they may hold anything.
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
    """Return the versions of the installed packages that an experiment's code of others is of, by their names."""
    groups = {"method": methods.ENTRY_POINTS, "network": networks.ENTRY_POINTS, "release": releases.ENTRY_POINTS}
    found = (package_of(name, groups[what]) for what, name in foreign(values))
    return dict(sorted(package for package in found if package is not None))


def not_allowed(values: Mapping[str, Any], allow: Collection[str]) -> str | None:
    """Return, in words, the first that an experiment names of code of others and `allow` does not."""
    for what, name in foreign(values):
        if name not in allow:
            return f"the {what} {name} does not come with fedserdiff, and its code would run here"
    return None
