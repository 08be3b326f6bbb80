"""All methods: one module each in this package, and third-party ones by entry point or object name."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from fedserdiff import plugins
from fedserdiff.errors import ConfigError
from fedserdiff.methods.combination import SIGN, combined
from fedserdiff.methods.method import Method
from fedserdiff.plugins import one_line

ENTRY_POINTS = "fedserdiff.methods"
"""Group of entry points through which packages provide methods, each a `Method` with the entry point's name."""

_DECLARED = "METHOD"
"""Name of the variable in which a module of this package declares its method."""


class _Methods(Mapping[str, Method]):
    """A mapping of methods by name, which imports a third-party method on first access."""

    def __getitem__(self, name: str) -> Method:
        own = _packaged()
        if name in own:
            return own[name]
        if name not in plugins.installed(ENTRY_POINTS):
            raise KeyError(name)
        return _foreign(name)

    def __iter__(self) -> Iterator[str]:
        yield from _packaged()
        yield from (name for name in plugins.installed(ENTRY_POINTS) if name not in _packaged())

    def __len__(self) -> int:
        return len(list(iter(self)))


METHODS: Mapping[str, Method] = _Methods()
"""The methods of this package and of installed packages, by name."""

COMPARED = ("lesion-replay", "ser-diff", "fine-tune", "rehearsal", "pooled")
"""Names of the methods that a comparison runs by default."""


@cache
def _packaged() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(importlib.import_module(f"{__name__}.{module.name}"), _DECLARED, None)
        if isinstance(method, Method):
            found[method.name] = method
    return found


@cache
def _foreign(name: str) -> Method:
    method = plugins.load(name, ENTRY_POINTS, _packaged(), "method")
    if not isinstance(method, Method):
        raise ConfigError(f"method {name}: is a {type(method).__name__}, not a Method")
    if ":" not in name and method.name != name:
        raise ConfigError(f"method {name}: its name is {method.name}: an entry point must have its method's name")
    return method


def is_foreign(name: str) -> bool:
    """Return whether a method, or one that it combines, is third-party, without importing it."""
    return any(plugins.is_foreign(part, ENTRY_POINTS, _packaged()) for part in parts_of(name))


def parts_of(name: str) -> tuple[str, ...]:
    """Return the names of the methods that a name combines; for any other method, its own name."""
    return tuple(name.split(SIGN))


def get_method(name: str) -> Method:
    """Return a method by name or ``module:object``, or a combination of several with + between their names.

    Raises
    ------
    ConfigError
        If there is no such method; the message lists the known ones.
    """
    if SIGN in name:
        return _combined(name)
    return _packaged()[name] if name in _packaged() else _foreign(name)


@cache
def _combined(name: str) -> Method:
    return combined(name, [get_method(part) for part in parts_of(name)])


def half_of(method: Method, half: str) -> Any:
    """Import and return one half of a method, its `strategy` or its `objective`.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    try:
        return pkgutil.resolve_name(half)
    except Exception as error:  # noqa: BLE001 - third-party modules may raise anything on import
        raise ConfigError(f"method {method.name}: {half} cannot be imported ({one_line(error)})") from None


def label(name: str) -> str:
    """Return a method's display name, which says if the method breaks privacy."""
    return f"{name} (breaks privacy)" if get_method(name).breaks_privacy else name


def listed_methods() -> str:
    """Return all methods for help texts; third-party ones are not imported, since they may be broken."""
    return ", ".join(name if is_foreign(name) else label(name) for name in METHODS)


def origin_note(names: Iterable[str]) -> str | None:
    """Return a note for scores of these methods with the origin of scans known; None if none of them needs it."""
    knowing = [name for name in names if get_method(name).knows_origin]
    if not knowing:
        return None
    return (
        f"{', '.join(knowing)}: a hospital is scored with the adapter or weights that it keeps for itself, so scores "
        "assume that the hospital of each scan is known."
    )


def recognition_note(names: Iterable[str]) -> str:
    """Return a note on how scans of unknown origin are segmented with these methods."""
    return (
        f"{', '.join(names)}: a hospital keeps an adapter or weights for itself. Scans of unknown origin are segmented "
        "with what the hospital keeps whose training scans they resemble most, or with the mean of the two nearest if "
        "the nearest is not clear."
    )
