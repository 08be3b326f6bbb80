"""Code of others that an experiment may name: by an installed package's entry point, or as ``module:object``.

Names are told apart without an import: nothing of a package runs before its name is asked for.
"""

import difflib
import pkgutil
from collections.abc import Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version

from fedserdiff.errors import ConfigError


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, none of them loaded."""
    return {entry.name: entry for entry in entry_points(group=group)}


def package_of(name: str, group: str) -> tuple[str, str] | None:
    """Return name and version of the installed package that a foreign name is of; None where it is of none."""
    if ":" not in name:
        about = installed(group)[name].dist
        return None if about is None else (about.name, about.version)
    packages = packages_distributions().get(name.partition(":")[0].partition(".")[0])
    return (packages[0], version(packages[0])) if packages else None


def is_foreign(name: str, group: str, own: Collection[str]) -> bool:
    """Say whether a name is of code that does not come with fedserdiff, where `own` are the names that do."""
    return ":" in name or (name not in own and name in installed(group))


def load(name: str, group: str, own: Collection[str], what: str) -> object:
    """Import what a foreign name stands for; `what` it is, such as "method", begins the text of an error.

    Raises
    ------
    ConfigError
        If it cannot be imported, or nothing has this name; the text says which names there are.
    """
    try:
        if ":" in name:
            return pkgutil.resolve_name(name)
        if name in installed(group):
            return installed(group)[name].load()
    except Exception as error:  # noqa: BLE001 - others' modules may raise anything when they are imported
        raise ConfigError(f"{what} {name}: cannot be imported ({one_line(error)})") from None
    there = [*own, *installed(group)]
    close = difflib.get_close_matches(name, there, 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(f"unknown {what} {name!r}: {meant}choose one of {', '.join(there)}")


def one_line(error: Exception) -> str:
    """Return an exception in one line: the first of its text, behind its kind where that says more."""
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, ImportError | ConfigError) and text else f"{type(error).__name__}: {text}"
