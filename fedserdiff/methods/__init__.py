"""The methods there are: a module each in this package, and others' by entry point or by name of an object."""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points

from fedserdiff.errors import ConfigError
from fedserdiff.methods.method import Method

ENTRY_POINTS = "fedserdiff.methods"
"""The group of entry points by which an installed package brings methods, each a `Method`."""

_DECLARED = "METHOD"
"""What a module of this package calls the method that it declares."""


class _Methods(Mapping[str, Method]):
    """The installed methods by name; modules are imported when one is first asked for."""

    def __getitem__(self, name: str) -> Method:
        return _installed()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_installed())

    def __len__(self) -> int:
        return len(_installed())


METHODS: Mapping[str, Method] = _Methods()
"""The methods of this package and of installed packages, by name."""


@cache
def _installed() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for module in pkgutil.iter_modules(__path__):
        method = getattr(importlib.import_module(f"{__name__}.{module.name}"), _DECLARED, None)
        if isinstance(method, Method):
            found[method.name] = method
    for entry in entry_points(group=ENTRY_POINTS):
        method = entry.load()
        if not isinstance(method, Method):
            raise ConfigError(f"entry point {entry.name} of {ENTRY_POINTS}: {entry.value} is no Method")
        if method.name in found:
            raise ConfigError(f"entry point {entry.name} of {ENTRY_POINTS}: there is a method {method.name} already")
        found[method.name] = method
    return found


def get_method(name: str) -> Method:
    """Return the method called `name`, or the one that ``module:object`` names.

    Raises
    ------
    ConfigError
        Where there is none; the text says which there are.
    """
    if ":" in name:
        return _named(name)
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, 1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"unknown method {name!r}: {meant}choose one of {', '.join(METHODS)}")
    return METHODS[name]


def _named(name: str) -> Method:
    try:
        method = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"method {name}: cannot be imported ({error})") from None
    if not isinstance(method, Method):
        raise ConfigError(f"method {name}: is a {type(method).__name__}, no Method")
    return method


def label(name: str) -> str:
    """Return a method's name as people are to read it: what breaks privacy says so."""
    return f"{name} (breaks privacy)" if get_method(name).breaks_privacy else name


def origin_note(names: Iterable[str]) -> str | None:
    """Return what is to be said beside scores of these methods; None where none knows where a scan comes from."""
    knowing = [name for name in names if get_method(name).knows_origin]
    if not knowing:
        return None
    return (
        f"{', '.join(knowing)}: a hospital is scored through its own adapter, so it has to know which hospital it is."
    )
