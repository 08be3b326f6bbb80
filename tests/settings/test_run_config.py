import tomllib
from pathlib import Path

import pytest
from flwr.common.config import fuse_dicts

from fedserdiff.errors import ConfigError
from fedserdiff.run_config import experiment_of
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings


def run_config(home: Path, **values: bool | float | int | str) -> dict[str, bool | float | int | str]:
    return {"profile": "smoke", "sites": 1, "set": "data.phantom_patients=2", "home": str(home)} | values


@pytest.mark.parametrize("method", ["rehearsal", "pooled"])
def test_methods_that_break_privacy_are_refused_before_anything_is_written(tmp_path: Path, method: str) -> None:
    home = tmp_path / "home"
    with pytest.raises(ConfigError, match=f"method {method} breaks privacy: it runs in a simulation only"):
        experiment_of(run_config(home, method=method))
    assert not home.exists()


def test_other_methods_run_with_their_settings_on_phantoms_under_home(tmp_path: Path) -> None:
    values = {"method": "ewc", "set": "data.phantom_patients=2 method.weight=5 replay.map_noise=.25"}
    config, home = experiment_of(run_config(tmp_path / "home", **values))
    assert home == tmp_path / "home"
    assert (config.method.name, config.profile) == ("ewc", "smoke")
    assert (config.value("method.weight"), config.replay.map_noise) == (5.0, 0.25)
    (site,) = config.sites
    assert Path(site.path).is_dir()
    assert Path(site.path).is_relative_to(home / "cache" / "phantom")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"method": "magic"}, "unknown method 'magic'"),
        (
            {"set": "method.wieght=1.0", "method": "ewc"},
            "run config: set: method.wieght: .* did you mean method.weight",
        ),
        ({"set": "method.weight=-1", "method": "ewc"}, "method.weight: -1 is not a number of at least 0"),
        ({"set": "training.rounds"}, "run config: set: 'training.rounds' is not NAME=VALUE"),
        ({"sites": "many"}, "run config: sites: 'many' is not a number"),
        ({"sites": 0}, "sites: 0 is less than 1"),
        ({"profile": "huge"}, "unknown profile 'huge'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, values: dict[str, float | int | str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        experiment_of(run_config(tmp_path / "home", **values))


def test_a_hospitals_app_does_not_take_the_coordinators_federation_for_phantoms(tmp_path: Path) -> None:
    """Its own scans are named in its own folder: ``flwr run`` must not make it train on phantoms instead."""
    home = tmp_path / "home"
    with pytest.raises(ConfigError, match=r"a real hospital runs its own app: .*fedserdiff hospital"):
        experiment_of(run_config(home, federation=str(tmp_path / "federation")))
    assert not home.exists()


def test_a_run_config_whose_federation_is_empty_is_a_simulations(tmp_path: Path) -> None:
    """As ``pyproject.toml`` has it where nobody names one."""
    config, _ = experiment_of(run_config(tmp_path / "home", federation=""))
    assert [site.name for site in config.sites] == ["site-1"]


def test_flwr_run_starts_by_default_what_the_commands_start(tmp_path: Path) -> None:
    """And lets --run-config change it: Flower takes no key that ``pyproject.toml`` does not name."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    default = project["tool"]["flwr"]["app"]["config"]
    small = {"profile": "smoke", "sites": 1, "home": str(tmp_path / "home")}
    config, _ = experiment_of(fuse_dicts(default, small))
    assert config == make_settings("smoke", sites=config.sites)
    assert default["profile"] == Settings().profile
    changed, _ = experiment_of(fuse_dicts(default, {**small, "method": "ewc", "seed": 3}))
    assert (changed.method.name, changed.seed) == ("ewc", 3)
