"""Every setting can be set by file, on the command line and in Python, and help, files and pages describe it."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from other_values import changes_for, every_setting

from fedserdiff.commands.main import load
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import layers_of, make_settings, parsed, profile_names
from strategies.run_directory import RunDirectory

EVERY = [
    (method, one.name) for method, one in every_setting() if (method, one.name) != ("ser-diff-plus", "method.teacher")
]
"""All but the one that has a single value."""


def written(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {written(own)}' for name, own in value.items())}}}"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def assignments(changes: dict[str, Any]) -> list[str]:
    return [part for name, value in changes.items() for part in ("--set", f"{name}={written(value)}")]


@pytest.fixture(scope="module")
def help_text() -> str:
    text = CliRunner().invoke(load("simulate"), ["--help"], env={"COLUMNS": "400"}).output
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(("method", "name"), EVERY)
def test_a_setting_is_set_in_four_ways_and_told_in_three(
    method: str, name: str, tmp_path: Path, help_text: str
) -> None:
    changes = changes_for(make_settings("smoke", method=method), name)
    assert changes is not None
    in_python = make_settings("smoke", changes, method=method)
    value = in_python.value(name)
    assert value == changes[name]

    file = tmp_path / "experiment.toml"
    tables: dict[str, list[str]] = {}
    for one, its in changes.items():
        group, _, leaf = one.rpartition(".")
        tables.setdefault(group, []).append(f"{leaf} = {written(its)}")
    tables["method"] = [f'name = "{method}"', *tables.get("method", [])]
    bare = tables.pop("", [])
    text = ['profile = "smoke"', *bare, *(line for t, own in tables.items() for line in (f"[{t}]", *own))]
    file.write_text("\n".join(text))
    assert layers_of_file(file).settings() == in_python

    told = CliRunner().invoke(load("settings"), ["--profile", "smoke", "--method", method, *assignments(changes)])
    assert told.exit_code == 0, told.output
    printed = tomllib.loads(told.stdout)
    group, _, leaf = name.rpartition(".")
    shown = printed[group][leaf] if group else printed[leaf]
    assert (tuple(shown) if isinstance(shown, list) else shown) == value
    assert "set by: command line" in told.stdout.replace("\n# ", " ")

    run = RunDirectory(tmp_path)
    run.write_config(in_python)
    assert Settings.from_dict(json.loads((tmp_path / "config.json").read_text())) == in_python
    assert layers_of_file(tmp_path / "config.json").settings() == in_python

    assert re.search(rf"{re.escape(group)}( \({method}\))?: [a-z0-9_, ]*\b{leaf}\b", help_text) or name == "seed"


@pytest.mark.parametrize("profile", profile_names())
def test_what_settings_prints_is_a_file_of_the_same_settings(profile: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(CliRunner().invoke(load("settings"), ["--profile", profile]).stdout)
    assert layers_of_file(file).settings().by_name == make_settings(profile).by_name


def test_later_sources_win_and_each_is_named(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('profile = "smoke"\n[training]\nbatch_size = 3\nrounds = 1\n[method]\nname = "ewc"\nweight = 2.0\n')
    layers = layers_of_file(file).on_top("command line", parsed(["training.rounds=2"]))
    settings = layers.settings()
    assert (settings.training.rounds, settings.training.batch_size, settings.data.spacing_mm) == (2, 3, 8.0)
    names = ("training.rounds", "training.batch_size", "data.spacing_mm", "method.weight", "privacy.dp_noise")
    assert [layers.came_from(name) for name in names] == [
        "command line", str(file), "profile smoke", str(file), "default"
    ]  # fmt: skip
    assert layers_of_file(file, "laptop").settings().data.spacing_mm == 3.0


def test_naming_the_method_that_is_chosen_already_keeps_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[method]\nname = "ser-diff"\nlambda_kd = 0.25\n')
    layers = layers_of_file(file, "smoke")
    assert layers.on_top("command line", {"method": "ser-diff"}).settings().value("method.lambda_kd") == 0.25
    assert layers.on_top("command line", {"method": "distill"}).settings().value("method.lambda_kd") == 1.0
    settings = layers.settings()
    assert settings.replace(method="ser-diff") == settings
    assert settings.replace({"method": "ser-diff", "method.gamma": 0.5}).value("method.lambda_kd") == 0.25


def test_a_profile_beside_a_runs_own_settings_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path).write_config(make_settings("smoke"))
    with pytest.raises(ConfigError, match=r"config.json: holds every setting, so --profile laptop has no effect"):
        layers_of_file(tmp_path / "config.json", "laptop")


def test_a_profile_may_be_a_file_of_the_users_beside_the_experiments(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[data]\nspacing_mm = 2.5\n[methods.ewc]\nweight = 7.0\n")
    (tmp_path / "experiment.toml").write_text('profile = "mine.toml"\nmethod = "ewc"\n')
    settings = layers_of_file(tmp_path / "experiment.toml").settings()
    assert (settings.profile, settings.data.spacing_mm, settings.value("method.weight")) == ("mine", 2.5, 7.0)
    assert layers_of(str(tmp_path / "mine.toml")).settings(method="ewc").method == settings.method


def test_what_is_set_of_a_method_holds_for_each_of_several_that_has_it() -> None:
    layers = layers_of("smoke").on_top("command line", {"method.lambda_kd": 0.25})
    plain = layers.for_methods(["ser-diff", "ser-diff-plus", "fine-tune"])
    assert plain.method.name == "fine-tune"
    assert plain.replace(method="ser-diff").value("method.lambda_kd") == 0.25
    assert plain.replace(method="ser-diff-plus").value("method.lambda_kd") == 0.25
    assert plain.replace(method="ser-diff-plus").value("method.inversion_steps") == 2, "which is the profile's"
    with pytest.raises(ConfigError, match=r"^method.lambda_kd: none of the methods fine-tune, ewc has this setting$"):
        layers.for_methods(["fine-tune", "ewc"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[trainig]\nrounds = 1", r"trainig: unknown group of settings: did you mean training\?"),
        ("sites = 3", r"sites: unknown group of settings: did you mean \[\[site\]\]\?"),
        ("[training]\nround = 1", r"training.round: unknown setting: did you mean training.rounds"),
        ("[training]\nrounds = 0", r"training.rounds: 0 is not a whole number of at least 1"),
        ('[training]\nrounds = "two"', r"training.rounds: 'two' is not a whole number of at least 1"),
        ('profile = "larg"', r"unknown profile 'larg'"),
        ("profile = 3", r"profile: 3 is not a profile's name"),
        ("[methods.magic]\nx = 1", r"unknown method 'magic'"),
        ("[training", r"not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        layers_of_file(file).settings()
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("training.batch_size", "--set: 'training.batch_size' is not NAME=VALUE"),
        ("training.batch_size=", "is not NAME=VALUE"),
        ("batch_size=2", "batch_size: unknown setting: did you mean training.batch_size"),
        ("training.batch_szie=2", "training.batch_szie: unknown setting: did you mean training.batch_size"),
        ("training.batch_size=0", "training.batch_size: 0 is not a whole number of at least 1"),
        ("data.grid=16,24", "data.grid: (16, 24) is not a list of 3 whole numbers, each at least 1"),
        ("data.test_share=1", "data.test_share: 1 is not a number of more than 0 and less than 1"),
        ("network.precision=fp8", "network.precision: 'fp8' is not one of auto, bf16, fp16, fp32"),
        ("method.weight=1", "method.weight: lesion-replay has no such setting; its settings are: lambda_kd"),
        ("data.allow_overlap=1", "data.allow_overlap: 1 is not true or false"),
        ("profile=paper", "--set: profile: choose it with --profile"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(assignment: str, says: str) -> None:
    done = CliRunner().invoke(load("settings"), ["--profile", "smoke", "--set", assignment], env={"COLUMNS": "300"})
    assert done.exit_code == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2), ("2.0", 2.0), (".5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False), ("bf16", "bf16"),
        ("16,24,16", [16, 24, 16]), ("[16, 24, 16]", [16, 24, 16]), ("PZ,TZ", ["PZ", "TZ"]), ('"a b"', "a b"),
    ],
)  # fmt: skip
def test_values_are_read_as_people_write_them(text: str, value: Any) -> None:
    assert parsed([f"x={text}"]) == {"x": value}
