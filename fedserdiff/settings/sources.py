"""Sources of settings: defaults, a profile, an experiment file and what the user sets on top, in this order."""

import difflib
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedserdiff.errors import ConfigError, Faults
from fedserdiff.methods import get_method, parts_of
from fedserdiff.settings.declaration import declared
from fedserdiff.settings.experiment import DEFAULT_METHOD, GROUPS, PLAIN_METHOD, Settings, changed
from fedserdiff.text import read_text

DEFAULT_PROFILE = "laptop"
"""The profile that leaves every default as it is."""

DEFAULT_SOURCE, COMMAND_LINE = "default", "command line"
"""Source name of a setting that no layer sets, and name of the layer of command-line options."""

_SUFFIX = ".toml"
_OWN = ("profile", "seed", "method", "methods", "stages")
_NOT_SET = {
    "profile": "choose it with --profile",
    "sites": "name the hospitals in an experiment file",
    "stages": "write [[stage]] tables in an experiment file",
    "methods": "set one method's setting as method.NAME",
}
"""Parts of an experiment that ``--set`` does not set, and how to set them instead."""

_ABOUT = "summary"
"""Key of a profile's one-sentence description."""


@dataclass(frozen=True)
class Source:
    """One layer of settings: its source in words, and its values by ``group.name``.

    `methods` has values of methods' own settings by method name. They apply if that method is chosen.
    """

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    is_profile: bool = False


@dataclass(frozen=True)
class Layers:
    """Sources of settings, each overriding the one before, and the name of the profile among them."""

    profile: str
    sources: tuple[Source, ...]

    def on_top(self, name: str, values: Mapping[str, Any]) -> "Layers":
        """Return the layers with one more on top."""
        return Layers(self.profile, (*self.sources, Source(name, values))) if values else self

    @property
    def method(self) -> str:
        """Name of the method that the layers choose."""
        named = [source.values["method"] for source in self.sources if "method" in source.values]
        return str(named[-1]) if named else DEFAULT_METHOD

    def settings(self, **own: Any) -> Settings:
        """Return the settings that all layers together give; `own` is as in `Settings.replace`.

        Raises
        ------
        ConfigError
            Names every unknown setting and every value out of its range.
        """
        values: dict[str, Any] = {"profile": self.profile, "method": DEFAULT_METHOD, "methods": self._methods()}
        for source in self.sources:
            try:
                values = changed(values, source.values)
            except ConfigError as error:
                raise ConfigError(*(f"{source.name}: {fault}" for fault in error.faults)) from None
        try:
            return Settings(**{**values, **own})
        except ConfigError as error:
            raise ConfigError(*map(self._told_of_file, error.faults)) from None

    def _told_of_file(self, fault: str) -> str:
        """Return a fault prefixed with the source of the setting that it names first."""
        name = fault.partition(":")[0]
        source = self.came_from(name)
        return fault if source in (DEFAULT_SOURCE, COMMAND_LINE) else f"{source}: {fault}"

    def for_methods(self, names: Iterable[str]) -> Settings:
        """Return settings for several methods; `Settings.replace` with a method's name gives that method's.

        A method setting in the layers applies to every method that has such a setting.

        Raises
        ------
        ConfigError
            As in `settings`, and if a layer sets something that none of the methods has.
        """
        own = {
            name: {one.name.partition(".")[2] for one in declared(get_method(name).settings, "method.")}
            for name in names
        }
        methods = {name: dict(values) for name, values in self._methods().items()}
        faults = Faults(ConfigError)
        for source in self.sources:
            for key, value in source.values.items():
                group, _, leaf = key.partition(".")
                having = [name for name in own if group == "method" and leaf in own[name]]
                if group == "method" and leaf and not having:
                    faults.add(f"{key}: none of the methods {', '.join(own)} has this setting")
                for name in having:
                    methods.setdefault(name, {})[leaf] = value
        faults.check()
        plain = Source("methods", {}, methods)
        settings = replace(self.without_method(), sources=(*self.without_method().sources, plain)).settings(
            method=PLAIN_METHOD
        )
        for name in own:
            settings.replace(method=name)
        return settings

    def sets(self, name: str, by_profile: bool = True) -> bool:
        """Return whether a layer sets a value; the profile's layer counts only with `by_profile`."""
        layers = self.sources if by_profile else [s for s in self.sources if not s.is_profile]
        return any(name in source.values for source in layers)

    def without_method(self) -> "Layers":
        """Return the layers without the method and its settings."""
        sources = (
            replace(source, values={n: v for n, v in source.values.items() if n.partition(".")[0] != "method"})
            for source in self.sources
        )
        return Layers(self.profile, tuple(sources))

    def came_from(self, name: str) -> str:
        """Return the name of the layer that gives a setting its value, for the chosen method."""
        group, _, leaf = name.partition(".")
        found = DEFAULT_SOURCE
        for source in self.sources:
            of_parts = (source.methods.get(one, {}) for one in (self.method, *parts_of(self.method)))
            if name in source.values or (group == "method" and any(leaf in own for own in of_parts)):
                found = source.name
        return found

    def _methods(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for source in self.sources:
            for name, own in source.methods.items():
                found[name] = {**found.get(name, {}), **own}
        return found


def profile_names() -> list[str]:
    """Return the names of the profiles that come with the package, those with the smallest images first."""
    return sorted(_packaged(), key=lambda name: (_image_size(name), name))


def profile_summary(name: str) -> str:
    """Return a profile's one-sentence description."""
    return str(_packaged()[name][_ABOUT])


def layers_of(profile: str = DEFAULT_PROFILE) -> Layers:
    """Return the layers of a profile, given by the name of a packaged profile or by the path of your own file.

    Raises
    ------
    ConfigError
        If there is no such profile, or the file is not a settings file.
    """
    if profile in _packaged():
        return Layers(profile, (replace(source_of(_packaged()[profile], f"profile {profile}"), is_profile=True),))
    file = Path(profile)
    if file.suffix == _SUFFIX and file.is_file():
        return Layers(file.stem, (replace(source_of(read_toml(file), str(file)), is_profile=True),))
    close = difflib.get_close_matches(profile, _packaged(), 1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"unknown profile {profile!r}: {meant}choose one of {', '.join(profile_names())}, or name a file "
        f"PROFILE{_SUFFIX} of your own"
    )


def layers_of_settings(settings: Settings) -> Layers:
    """Return settings as one layer, with those method settings that differ from the defaults and the profile."""
    of_profile = {f"method.{name}": value for name, value in settings.methods.get(settings.method.name, {}).items()}
    declares = {one.name: one.default for one in declared(type(settings.method), "method.")} | of_profile
    own = {name: value for name, value in declares.items() if settings.value(name) != value}
    values = {
        "method" if name == "method.name" else name: value
        for name, value in settings.by_name.items()
        if name != "profile" and (name not in declares or name in own)
    }
    return Layers(settings.profile, (Source("settings", values, settings.methods),))


def make_settings(profile: str = DEFAULT_PROFILE, changes: Mapping[str, Any] | None = None, /, **own: Any) -> Settings:
    """Create settings from a profile, with `changes` on top.

    Parameters
    ----------
    profile : str
        As in `layers_of`.
    changes : mapping, optional
        By ``group.name``, such as ``{"training.batch_size": 2, "method.lambda_kd": 0.3}``.
    **own
        Settings without a group: ``seed``, ``method`` by name, ``sites``.

    Raises
    ------
    ConfigError
        Names every unknown setting and every value out of its range.
    """
    settings = layers_of(profile).settings(**own)
    return settings.replace(changes) if changes else settings


def source_of(tables: Mapping[str, Any], name: str) -> Source:
    """Return what a settings file's tables set; raise `ConfigError` for a table that is not a group."""
    values: dict[str, Any] = {}
    methods: dict[str, Mapping[str, Any]] = {}
    for key, value in tables.items():
        if key in (_ABOUT, "profile"):
            continue
        if key == "methods" and isinstance(value, Mapping):
            for method, own in value.items():
                try:
                    methods[get_method(method).name] = own
                except ConfigError as error:
                    raise ConfigError(f"{name}: methods: {error}") from None
        elif key in (*GROUPS, "method") and isinstance(value, Mapping):
            own = dict(value)
            if key == "method" and "name" in own:
                values["method"] = own.pop("name")
            values |= {f"{key}.{leaf}": setting for leaf, setting in own.items()}
        elif key in _OWN:
            values[key] = value
        else:
            keys = {key: key for key in (*_OWN, *GROUPS)} | {"site": "[[site]]", "stages": "[[stage]]"}
            close = difflib.get_close_matches(key, keys, 1)
            meant = f"did you mean {keys[close[0]]}?" if close else f"choose from {', '.join(keys.values())}"
            raise ConfigError(f"{name}: {key}: unknown group of settings: {meant}")
    return Source(name, values, methods)


def parsed(assignments: Iterable[str], option: str = "--set") -> dict[str, Any]:
    """Parse ``group.name=value`` assignments into values by name. Values are TOML; strings may omit their quotes.

    Raises
    ------
    ConfigError
        If an assignment lacks a name or a value, or names something that cannot be set this way.
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, _, text = (part.strip() for part in assignment.partition("="))
        if not name or not text:
            raise ConfigError(f"{option}: {assignment!r} is not NAME=VALUE, such as training.batch_size=2")
        if name in _NOT_SET:
            raise ConfigError(f"{option}: {name}: {_NOT_SET[name]}")
        found[name] = parsed_value(text)
    return found


def parsed_value(text: str) -> Any:
    """Parse a value's text as TOML, also as ``True``, ``.5`` or ``a,b``; otherwise return the text itself."""
    for written in (text, text.lower(), f"[{text}]" if "," in text else text, f"0{text}"):
        try:
            return tomllib.loads(f"value = {written}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return [item.strip() for item in text.split(",")] if "," in text else text


def as_toml(value: Any) -> str:
    """Return a value as TOML text: strings as JSON, with the one control character escaped that JSON leaves."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(name)} = {as_toml(own)}' for name, own in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file that a person wrote.

    Raises
    ------
    ConfigError
        As in `read_text`, and if the file cannot be read or is not valid TOML.
    """
    try:
        return tomllib.loads(read_text(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None


@cache
def _packaged() -> dict[str, dict[str, Any]]:
    folder = files("fedserdiff.settings") / "profiles"
    return {
        entry.name.removesuffix(_SUFFIX): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(_SUFFIX)
    }


def _image_size(profile: str) -> int:
    data = layers_of(profile).settings().data
    return math.prod(data.grid[: data.spatial_dims])
