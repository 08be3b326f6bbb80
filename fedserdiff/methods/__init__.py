"""The methods there are: a module each in this package, and others' by entry point or by name of an object."""

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
"""The group of entry points by which an installed package brings methods, each a `Method` of the entry point's name."""

_DECLARED = "METHOD"
"""What a module of this package calls the method that it declares."""


class _Methods(Mapping[str, Method]):
    """The methods by name. One that an installed package brings is imported when it is asked for, and not before."""

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
        raise ConfigError(f"method {name}: is a {type(method).__name__}, no Method")
    if ":" not in name and method.name != name:
        raise ConfigError(f"method {name}: calls itself {method.name}: an entry point has its method's name")
    return method


def is_foreign(name: str) -> bool:
    """Say whether a method, or one that it combines, does not come with fedserdiff; it is not imported."""
    return any(plugins.is_foreign(part, ENTRY_POINTS, _packaged()) for part in parts_of(name))


def parts_of(name: str) -> tuple[str, ...]:
    """Return the names in the name of a method that combines some; of any other, its own."""
    return tuple(name.split(SIGN))


def get_method(name: str) -> Method:
    """Return the method called `name`, or the one that ``module:object`` names; or several, with a + between names.

    Raises
    ------
    ConfigError
        If there is none; the text says which there are.
    """
    if SIGN in name:
        return _combined(name)
    return _packaged()[name] if name in _packaged() else _foreign(name)


@cache
def _combined(name: str) -> Method:
    return combined(name, [get_method(part) for part in parts_of(name)])


def half_of(method: Method, half: str) -> Any:
    """Return a method's half, its `strategy` or its `objective`, imported.

    Raises
    ------
    ConfigError
        If it cannot be imported.
    """
    try:
        return pkgutil.resolve_name(half)
    except Exception as error:  # noqa: BLE001 - others' modules may raise anything when they are imported
        raise ConfigError(f"method {method.name}: {half} cannot be imported ({one_line(error)})") from None


def label(name: str) -> str:
    """Return a method's name as people are to read it: what breaks privacy says so."""
    return f"{name} (breaks privacy)" if get_method(name).breaks_privacy else name


def listed_methods() -> str:
    """Return the methods there are, for help texts; one of others is named and not imported, since it may be broken."""
    return ", ".join(name if is_foreign(name) else label(name) for name in METHODS)


def origin_note(names: Iterable[str]) -> str | None:
    """Return what is to be said beside scores of these methods; None where none knows where a scan comes from."""
    knowing = [name for name in names if get_method(name).knows_origin]
    if not knowing:
        return None
    return (
        f"{', '.join(knowing)}: a hospital is scored with what it keeps for itself, an adapter or weights, so it has "
        "to be known which hospital a scan comes from."
    )
