"""Options that several commands share: settings, hospitals and the machine, in the panels of the help text."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from fedserdiff.experiment_file import layers_of_file
from fedserdiff.methods import METHODS, is_foreign, listed_methods
from fedserdiff.report.console import warn
from fedserdiff.settings.experiment import DEFAULT_METHOD, GROUPS, Settings, settings_of
from fedserdiff.settings.sources import (
    COMMAND_LINE,
    DEFAULT_PROFILE,
    Layers,
    layers_of,
    make_settings,
    parsed,
    profile_names,
)

DATA, SETTINGS, PRIVACY, SCORING, RUNNING = "Data", "Settings", "Privacy", "Scoring", "Running"


class _Shortcut(NamedTuple):
    """A setting with its own option, and the panel of the help text that shows it."""

    setting: str
    panel: str
    option: str = ""


_SHORTCUTS = {
    "rounds": _Shortcut("training.rounds", SETTINGS),
    "batch_size": _Shortcut("training.batch_size", SETTINGS),
    "arrival": _Shortcut("training.arrival", SETTINGS),
    "participation": _Shortcut("training.participation", SETTINGS),
    "lambda_kd": _Shortcut("method.lambda_kd", SETTINGS, "--lambda"),
    "teacher": _Shortcut("method.teacher", SETTINGS),
    "steps": _Shortcut("scoring.sampling_steps", SETTINGS),
    "shared_error_maps": _Shortcut("method.shared_error_maps", PRIVACY),
    "dp_noise": _Shortcut("privacy.dp_noise", PRIVACY),
    "dp_clip": _Shortcut("privacy.dp_clip", PRIVACY),
    "evaluate_every": _Shortcut("scoring.evaluate_every", SCORING),
    "evaluate_sites": _Shortcut("scoring.evaluate_sites", SCORING),
    "stream": _Shortcut("data.phantom_stream", DATA),
    "allow_overlap": _Shortcut("data.allow_overlap", DATA, "--allow-overlap"),
    "retries": _Shortcut("machine.retries", RUNNING),
    "site_failure": _Shortcut("machine.site_failure", RUNNING),
    "cpus_per_site": _Shortcut("machine.cpus_per_site", RUNNING),
    "gpus_per_site": _Shortcut("machine.gpus_per_site", RUNNING),
}
_SHOWN_OF = "ser-diff"  # the method whose declarations describe options such as --teacher


@dataclass(frozen=True)
class Chosen:
    """The settings given on the command line: a profile, and values by ``group.name``."""

    profile: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """Everything given on the command line, including the profile."""
        return {**self.values, **({} if self.profile is None else {"profile": self.profile})}

    def layers(self, experiment: Path | None = None) -> Layers:
        """Return these settings on top of an experiment file or, without one, of the profile."""
        below = (
            layers_of(self.profile or DEFAULT_PROFILE)
            if experiment is None
            else layers_of_file(experiment, self.profile)
        )
        return below.on_top(COMMAND_LINE, self.values)


def takes_settings(
    *shortcuts: str, method: bool = True, seed: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add ``--profile``, ``--set``, ``--seed`` and setting options to a command, which receives them as one `Chosen`.

    Parameters
    ----------
    *shortcuts : str
        Settings with their own options: keys of `_SHORTCUTS`.
    method : bool
        Whether the command runs a single method and has ``--method`` and ``--seed``; a comparison does not.
    seed : bool
        Whether the command has ``--seed`` without ``--method``.
    """
    named = [_one("method", str, METHOD)] if method else []
    named += [_one("seed", int, SEED)] if method or seed else []
    added = [
        _one("profile", str, PROFILE),
        *named,
        *(_one(name, _type_of(name), _option_of(name)) for name in shortcuts),
        Parameter("changes", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[list[str] | None, SET]),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [parameter for name, parameter in signature.parameters.items() if name != "chosen"]

        @functools.wraps(command)
        def call(**given: Any) -> None:
            profile, changes = given.pop("profile"), given.pop("changes")
            values: dict[str, Any] = {name: given.pop(name) for name in ("method", "seed") if name in given}
            values |= {_SHORTCUTS[name].setting: given.pop(name) for name in shortcuts}
            values = {name: value for name, value in values.items() if value is not None}
            command(chosen=lambda: Chosen(profile, values | parsed(changes or ())), **given)

        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*own, *added)]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def tell_idle(console: Console, layers: Layers) -> None:
    """Warn if a setting has no effect as given."""
    if layers.sets("privacy.dp_clip") and layers.settings().privacy.dp_noise == 0:
        warn(console, "privacy.dp_clip: has no effect without privacy.dp_noise")


def default_of(name: str) -> str:
    """Return a setting's default in words, and its value in each profile that differs."""
    default = _declared(name).default
    if name.startswith("method."):
        return _text(default)
    others = {profile: settings.value(name) for profile, settings in _by_profile().items()}
    return "; ".join([_text(default), *(f"{p}: {_text(v)}" for p, v in others.items() if v != default)])


@functools.cache
def _by_profile() -> dict[str, Settings]:
    return {profile: make_settings(profile) for profile in profile_names()}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _declared(name: str) -> Any:
    return next(one for one in settings_of(_SHOWN_OF) if one.name == name)


def _one(name: str, kind: type, option: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _type_of(shortcut: str) -> type:
    return type(_declared(_SHORTCUTS[shortcut].setting).default)


def _option_of(shortcut: str) -> Any:
    name, panel, option = _SHORTCUTS[shortcut]
    one = _declared(name)
    shown: str | bool = default_of(name)
    if shortcut == "gpus_per_site":
        shown = "1 if this machine has a GPU, otherwise 0"
    if shortcut == "allow_overlap":
        shown = False
    return typer.Option(*filter(None, [option]), help=one.sentence, show_default=shown, rich_help_panel=panel)


def _own_settings(method: str) -> list[str]:
    return [one.name.partition(".")[2] for one in settings_of(method) if one.name.startswith("method.")]


PROFILE = typer.Option(
    help=f"Size of scans, networks and stages: {', '.join(profile_names())}, or your own TOML file.",
    show_default=DEFAULT_PROFILE,
    rich_help_panel=SETTINGS,
)
METHOD = typer.Option(
    help=f"Method of continual learning: {listed_methods()}, or MODULE:OBJECT.",
    show_default=DEFAULT_METHOD,
    rich_help_panel=SETTINGS,
)
SEED = typer.Option(
    help="Random seed of phantom patients, weights, batches and noise.", show_default="0", rich_help_panel=SETTINGS
)
SET = typer.Option(
    "--set",
    metavar="NAME=VALUE",
    help="Change any setting, such as training.batch_size=2; may be repeated. `fedserdiff settings` lists them.",
    rich_help_panel=SETTINGS,
)
CACHE = typer.Option(
    "--cache",
    help="Folder for phantom scans and prepared cases.",
    show_default="environment variable FEDSERDIFF_CACHE, otherwise the user's cache folder",
    rich_help_panel=DATA,
)
PLAN = typer.Option(
    "--plan",
    help="Print the number of cases and steps, the disk space and memory needed, and a rough duration in hours, then "
    "exit.",
    rich_help_panel=RUNNING,
)
SKIP_BAD = typer.Option(
    "--skip-bad",
    help="Leave out unusable cases and list them with the reason, instead of stopping.",
    rich_help_panel=DATA,
)

EPILOG = "\n\n".join(
    [
        "Settings for --set, explained by `fedserdiff settings`; the group method depends on the method:",
        *(f"{name}: {', '.join(group.model_fields)}" for name, group in GROUPS.items()),
        *(
            f"method ({name}): {', '.join(own)}"
            for name in METHODS
            if not is_foreign(name) and (own := _own_settings(name))
        ),
    ]
)
"""Text below the help of every command that takes settings."""

Experiment = Annotated[
    Path | None,
    typer.Argument(
        help="TOML file that lists hospitals with their data and, optionally, settings; or a run's config.json.",
    ),
]
Sites = Annotated[
    int | None,
    typer.Option(
        help="Number of phantom hospitals.", show_default="3 if no file lists hospitals", rich_help_panel=DATA
    ),
]
ShowCases = Annotated[
    bool,
    typer.Option(
        "--show-cases",
        help="Write pictures of your own cases; pictures of phantoms are always written.",
        rich_help_panel=DATA,
    ),
]
