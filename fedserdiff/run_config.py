"""The experiment that ``flwr run`` starts: its run config, from ``[tool.flwr.app.config]`` and ``--run-config``."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from fedserdiff.errors import ConfigError
from fedserdiff.federation import phantom_federation
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import DEFAULT_PROFILE, layers_of, parsed

_OWN = ("profile", "sites", "home", "federation", "set")


def experiment_of(run_config: Mapping[str, bool | float | int | str]) -> tuple[Settings, Path]:
    """Return the experiment and its home, the folder with its ``cache`` and ``runs``.

    Keys are ``profile``, ``method``, ``seed``, ``home``, ``sites`` and ``set``. ``sites`` is a number of phantom
    hospitals, which are written if they do not exist yet. ``set`` holds any settings as ``group.name=value``, separated
    by blanks, because Flower accepts only keys that the app declares. An empty text counts as unset. Simulate real
    hospitals with ``fedserdiff simulate`` instead, which sees all their cases and leaves out patients that an earlier
    site has.

    Raises
    ------
    ConfigError
        If a key is unknown or its value is not allowed, or if the method needs raw data of other hospitals: such
        methods are only for simulations, and ``flwr run`` may reach real hospitals.
    """
    return _experiment(tuple(sorted(run_config.items())))


@lru_cache(maxsize=8)
def _experiment(items: tuple[tuple[str, bool | float | int | str], ...]) -> tuple[Settings, Path]:
    values = {key: value for key, value in items if value != ""}
    own = {key: values.pop(key) for key in _OWN if key in values}
    if "federation" in own:
        raise ConfigError("run config: federation: a real hospital runs its own app: start it with fedserdiff hospital")
    layers = layers_of(str(own.get("profile", DEFAULT_PROFILE))).on_top("run config", values)
    config = layers.on_top("run config: set", parsed(str(own.get("set", "")).split(), "run config: set")).settings()
    if get_method(config.method.name).breaks_privacy:
        raise ConfigError(f"method {config.method.name} breaks privacy: it runs in a simulation only")
    try:
        home = Path(str(own.get("home", "~/fedserdiff"))).expanduser()
    except RuntimeError:
        raise ConfigError("run config: home: this user has no home directory: set home to a folder") from None
    try:
        count = int(own.get("sites", 3))
    except ValueError:
        raise ConfigError(f"run config: sites: {own['sites']!r} is not a number") from None
    sites = phantom_federation(count, config, home / "cache" / "phantom")
    return config.replace(sites=sites), home
