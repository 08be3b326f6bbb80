"""Third-party code that an experiment may name: an entry point of an installed package, or ``module:object``.

Names are resolved without importing anything: a package's code runs only when its name is requested.
"""

import difflib
import pkgutil
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version

from fedserdiff.errors import ConfigError


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, without loading them."""
    return {entry.name: entry for entry in entry_points(group=group)}


def package_of(name: str, group: str) -> tuple[str, str] | None:
    """Return the name and version of the installed package that provides a foreign name; None if there is none."""
    if ":" not in name:
        about = installed(group)[name].dist
        return None if about is None else (about.name, about.version)
    packages = packages_distributions().get(name.partition(":")[0].partition(".")[0])
    return (packages[0], version(packages[0])) if packages else None


def is_foreign(name: str, group: str, own: Collection[str]) -> bool:
    """Return whether a name refers to code outside fedserdiff; `own` are the names that fedserdiff provides."""
    return ":" in name or (name not in own and name in installed(group))


def load(name: str, group: str, own: Collection[str], what: str) -> object:
    """Import the object with a foreign name; `what`, such as "method", begins error messages.

    Raises
    ------
    ConfigError
        If it cannot be imported, or does not exist; the message lists the known names.
    """
    try:
        if ":" in name:
            return pkgutil.resolve_name(name)
        if name in installed(group):
            return installed(group)[name].load()
    except Exception as error:  # noqa: BLE001 - third-party modules may raise anything on import
        raise ConfigError(f"{what} {name}: cannot be imported ({one_line(error)})") from None
    there = [*own, *installed(group)]
    close = difflib.get_close_matches(name, there, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"unknown {what} {name!r}: {meant}choose one of {', '.join(there)}")


def one_line(error: Exception) -> str:
    """Return the first line of an exception's message, with its class name unless the message is clear without it."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, ImportError | ConfigError) and text else f"{type(error).__name__}: {text}"
