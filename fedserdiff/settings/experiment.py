"""All settings of an experiment: everything that determines a run's result, and where the run takes place."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import SerializeAsAny, ValidationError, ValidationInfo, field_serializer, field_validator, model_validator
from pydantic_core import ErrorDetails

from fedserdiff.data.releases import Release, own_release
from fedserdiff.errors import ConfigError, Faults
from fedserdiff.methods import METHODS, get_method, is_foreign, parts_of
from fedserdiff.methods.method import Arrival, Method, MethodSettings, Strategy
from fedserdiff.settings.augmentation import Augmentation
from fedserdiff.settings.consistency import (
    check_deformation,
    check_grid,
    check_length,
    check_noise,
    check_patch,
    check_shares,
    check_thresholds,
    check_validation,
)
from fedserdiff.settings.declaration import Declared, Group, declared, setting
from fedserdiff.settings.foreign import packages
from fedserdiff.settings.groups import Aggregation, Data, Machine, Network, Privacy, Replay
from fedserdiff.settings.mistakes import in_words, not_of_method, unknown
from fedserdiff.settings.scoring import Scoring
from fedserdiff.settings.timetable import StageMoves, Timetable, check_moves, make_timetable, moves_from
from fedserdiff.settings.training import Training, rounds_of

GROUPS: Mapping[str, type[Group]] = {
    "data": Data,
    "network": Network,
    "training": Training,
    "augmentation": Augmentation,
    "aggregation": Aggregation,
    "replay": Replay,
    "privacy": Privacy,
    "scoring": Scoring,
    "machine": Machine,
}
"""The groups of every experiment, by name. The group ``method`` is declared by the experiment's method."""

DEFAULT_METHOD = "lesion-replay"
"""The method that retains most of real patients without raw scans: docs/explanation/real-hospitals.md."""

CASE_FIELDS = ("cases", "test_cases", "validation_cases")
"""Fields of a `Site` that list cases."""

PROVENANCE = "provenance"
"""Key of the table in a run's ``config.json`` that records what the run was made from."""

PLAIN_METHOD = "fine-tune"
"""A method without settings, which does only what every method does in stage 1."""


@dataclass(frozen=True)
class Site:
    """One hospital: its `name`, the `release` of its data, the `path` to them and, optionally, its cases by name.

    If `cases` is empty, every case of the release under `path` is used. If `test_cases` is empty, `data.test_share`
    decides which patients are held out; otherwise exactly these cases are. The same holds for `validation_cases` and
    `data.validation_share`. `declared` is the release if the experiment itself declares it.
    """

    name: str
    release: str
    path: str
    cases: tuple[str, ...] = ()
    test_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    declared: Release | None = field(default=None, hash=False)

    @property
    def stated_release(self) -> str | dict[str, Any]:
        """The release's name or, if the experiment declares the release, its table; JSON-ready."""
        return self.release if self.declared is None else self.declared.table


class Settings(Group):
    """All settings of an experiment by group, and its hospitals in order of arrival; frozen.

    `make_settings` creates them from a profile. Every value is checked; one `ConfigError` names all that are wrong.

    Attributes
    ----------
    profile : str
        Name of the profile that provided the defaults.
    seed : int
        Seed of every random generator in the run: phantom patients, weights, batches, noise.
    sites : tuple of Site
        The hospitals in order of arrival.
    stages : tuple of StageMoves
        The hospitals that arrive, leave and return at each stage; empty if each hospital has its own stage.
    method : MethodSettings
        The method's name and its own settings.
    methods : mapping
        Values of methods' own settings by method name. They apply if that method is chosen; a profile sets them.
    data, network, training, augmentation, aggregation, replay, privacy, scoring, machine
        The groups, declared in `fedserdiff.settings.groups` and the modules beside it.
    """

    profile: str = "laptop"
    seed: int = setting(0, "Seed of every random generator: phantom patients, weights, batches, noise.", ge=0)
    sites: tuple[Site, ...] = ()
    stages: tuple[StageMoves, ...] = ()
    methods: Mapping[str, Mapping[str, Any]] = {}
    method: SerializeAsAny[MethodSettings] = DEFAULT_METHOD  # type: ignore[assignment]
    data: Data = Data()
    network: Network = Network()
    training: Training = Training()
    augmentation: Augmentation = Augmentation()
    aggregation: Aggregation = Aggregation()
    replay: Replay = Replay()
    privacy: Privacy = Privacy()
    scoring: Scoring = Scoring()
    machine: Machine = Machine()

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [line for fault in error.errors() for line in _in_words(fault).splitlines()]
            raise ConfigError(*dict.fromkeys(lines)) from None  # a value that fits none of several types is one fault

    @field_validator("sites", mode="before")
    @classmethod
    def _sites(cls, sites: Any) -> Any:
        return tuple(site if isinstance(site, Site) else _site(site) for site in sites)

    @field_validator("stages", mode="before")
    @classmethod
    def _stages(cls, stages: Any) -> Any:
        try:
            return moves_from(stages)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_serializer("stages")
    def _write_stages(self, stages: tuple[StageMoves, ...]) -> list[dict[str, Any]]:
        return [stage.table for stage in stages]

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, method: Any, info: ValidationInfo) -> Any:
        """Convert a method's name, or a table of its name and settings, to the class that declares the settings."""
        if isinstance(method, MethodSettings):
            return method
        own = {"name": method} if isinstance(method, str) else method
        if not isinstance(own, Mapping):
            raise TypeError(f"method: {method!r} is neither a name nor a table")
        name = own.get("name")
        if not isinstance(name, str):
            raise ValueError("method.name: is missing; name a method")
        try:
            about = get_method(name)
        except ConfigError as error:
            raise ValueError(f"method: {error}") from None
        if foreign := sorted(set(own) - set(about.settings.model_fields)):
            raise ValueError("\n".join(_foreign(one, about) for one in foreign))
        try:
            methods = info.data.get("methods", {})
            kept = (methods.get(one, {}) for one in dict.fromkeys((*parts_of(name), name)))
            return about.settings(**{**{key: value for values in kept for key, value in values.items()}, **own})
        except ValidationError as error:
            raise ValueError("\n".join(_in_words(fault, name) for fault in error.errors())) from None

    @field_serializer("sites")
    def _write_sites(self, sites: tuple[Site, ...]) -> list[dict[str, Any]]:
        return [_site_table(site) for site in sites]

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        check_length(self.training, self.method)
        check_validation(self.training)
        check_deformation(self.augmentation)
        check_patch(self.data, self.training)
        check_grid(self.data, self.network, self.training)
        check_shares(self.data)
        check_thresholds(self.scoring, self.data)
        check_noise(self.privacy, self.method)
        if self.sites and self.stages:
            check_moves([site.name for site in self.sites], self.stages, self.training.participation)
        return self

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in type(self).model_fields if name != "methods"))

    def replace(self, changes: Mapping[str, Any] | None = None, /, **own: Any) -> "Settings":
        """Return a copy with changed settings, checked like new ones.

        Parameters
        ----------
        changes : mapping, optional
            By ``group.name``, such as ``{"training.batch_size": 2, "method.lambda_kd": 0.3}``.
        **own
            Settings without a group: ``seed``, ``sites``, ``profile``, ``method`` by name. A new method takes the
            settings that the profile gives it, otherwise its defaults.

        Raises
        ------
        ConfigError
            Names every unknown setting, with similar names, and every value out of its range.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return Settings(**changed(values, {**own, **(changes or {})}))

    def of_first_stage(self) -> "Settings":
        """Return settings with everything that does not affect stage 1 at its default.

        Runs with equal results here train the same student in stage 1, unless their method plans it differently.
        """
        return self.replace(
            {one.name: one.default for one in settings_of() if one.after_first_stage}, method=PLAIN_METHOD, methods={}
        )

    def value(self, name: str) -> Any:
        """Return a setting by its full name, such as ``training.batch_size``; raise `ConfigError` if it is unknown."""
        found: Any = self
        for part in name.split("."):
            if not hasattr(found, part):
                raise ConfigError(unknown(name, _every_name()))
            found = getattr(found, part)
        return found

    @property
    def by_name(self) -> dict[str, Any]:
        """All settings by full name, except the sites."""
        found = {"profile": self.profile, "seed": self.seed}
        for group in ("method", *GROUPS):
            found |= {f"{group}.{name}": value for name, value in getattr(self, group)}
        return found | ({"stages": [stage.table for stage in self.stages]} if self.stages else {})

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide a run's result, by full name, without its sites and those of one machine."""
        of_one_machine = {one.name for one in settings_of() if one.one_machine}
        return {name: value for name, value in self.by_name.items() if name not in of_one_machine}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of the networks' input in voxels: a patch, or a whole slice (X, Y) or volume (X, Y, Z)."""
        return self.training.patch or self.data.grid[: self.data.spatial_dims]

    @property
    def rounds(self) -> int:
        """Number of rounds in a stage."""
        return rounds_of(self.training, self.method)[1]

    @property
    def timetable(self) -> Timetable:
        """The hospitals in the federation at each stage."""
        return self.timetable_of([site.name for site in self.sites])

    @property
    def most_stages(self) -> int:
        """Largest number of stages of a method: those of the timetable or, without a federation, one per hospital."""
        return max(len(self.timetable), len(self.sites))

    def timetable_of(self, sites: Sequence[str]) -> Timetable:
        """Return the timetable for hospitals of these names, in order of arrival."""
        return make_timetable(sites, self.stages, self.training.participation, self.arrival == "together")

    @property
    def arrival(self) -> Arrival:
        """How hospitals arrive."""
        return get_method(self.method.name).arrival if (own := self.training.arrival) == "method" else own

    @property
    def strategy(self) -> Strategy:
        """Name of the Flower strategy that aggregates a round's students."""
        return get_method(self.method.name).aggregation if (own := self.aggregation.strategy) == "method" else own

    @property
    def inertia(self) -> float:
        """Largest share that a stage keeps of the student it began with."""
        return get_method(self.method.name).inertia if (own := self.aggregation.inertia) == "method" else own

    @property
    def shared_error_maps(self) -> str:
        """The error maps that a hospital shares: ``null``, ``mri`` or ``none``."""
        return getattr(self.method, "shared_error_maps", "none")

    @property
    def agreed(self) -> dict[str, Any]:
        """Everything that coordinator and hospitals must agree on because it determines the result; JSON-ready.

        Paths, devices, time-outs, failure handling and a hospital's own limits on egress are left out.
        """
        return {**self.deciding, "sites": [[site.name, site.stated_release] for site in self.sites]}

    @property
    def fingerprint(self) -> int:
        """A number that identifies an experiment: 63 bits of a SHA-256 over `agreed` and the software versions."""
        others = packages(self.to_dict())
        text = json.dumps([version("fedserdiff"), self.agreed, *([others] if others else [])], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON-ready values, by group."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Rebuild settings that `to_dict` wrote; other entries of a run's ``config.json`` are ignored.

        Raises
        ------
        ConfigError
            If a setting is unknown or a value is not allowed.
        """
        return cls(**{name: value for name, value in values.items() if name != PROVENANCE})


def settings_of(method: str | None = None) -> Iterator[Declared]:
    """Yield every declared setting: those without a group, those of the groups and, if given, those of one method."""
    yield from declared(Settings, "")
    for name, group in GROUPS.items():
        yield from declared(group, f"{name}.")
    if method is not None:
        yield from declared(get_method(method).settings, "method.")


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's values by group with `changes` (by ``group.name``) applied, without checking them.

    Raises
    ------
    ConfigError
        If a change names an unknown setting; the text suggests similar names.
    """
    made = dict(values)
    faults = Faults(ConfigError)
    for name, value in changes.items():
        group, _, field = name.partition(".")
        if name == "method" and value == _name_of(made.get("method")):
            continue  # whose settings stay
        if not field and group in ("seed", "method", "profile", "sites", "stages", "methods"):
            made[group] = value
        elif group in (*GROUPS, "method") and field:
            before = made.get(group, {})
            table = {"name": before} if isinstance(before, str) else dict(before)
            made[group] = {**table, field: value}
        else:
            faults.add(unknown(name, _every_name()))
    faults.check()
    return made


def _name_of(method: Any) -> Any:
    """Return the name of a method given as a name, a table or its settings."""
    if isinstance(method, MethodSettings):
        return method.name
    return method.get("name") if isinstance(method, Mapping) else method


def _foreign(name: str, method: Method) -> str:
    """Return the message for a setting that the method does not have, with those it has."""
    full = f"method.{name}"
    own = [one.name.partition(".")[2] for one in declared(method.settings, "method.")]
    return not_of_method(full, method.name, own) if full in _every_name() else unknown(full, _every_name())


@cache
def _every_name() -> tuple[str, ...]:
    own = (method for method in METHODS if not is_foreign(method))  # others' may be broken
    of_methods = (one.name for method in own for one in settings_of(method))
    return tuple(dict.fromkeys(("profile", "method.name", *of_methods)))


def _in_words(fault: ErrorDetails, method: str | None = None) -> str:
    """Return the message for a wrong value; `method` is given if its own settings are checked."""
    placed = fault if method is None else {**fault, "loc": ("method", *fault["loc"])}
    ranges = {one.name: one.allowed for one in settings_of(method)}
    return in_words(placed, (*GROUPS, "method"), ranges, _every_name())


def _site(values: Mapping[str, Any]) -> Site:
    stated = values["release"]
    declared = own_release(stated, f"site {values['name']}: release") if isinstance(stated, Mapping) else None
    return Site(
        values["name"],
        stated if declared is None else declared.name,
        values["path"],
        **{field: tuple(values.get(field, ())) for field in CASE_FIELDS},
        declared=declared,
    )


def _site_table(site: Site) -> dict[str, Any]:
    table = {**asdict(site), "release": site.stated_release}
    del table["declared"]
    return table
