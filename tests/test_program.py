"""The command ``fedserdiff``: what it knows about its commands without importing them, and their output."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from click.testing import CliRunner
from finished_runs import write_run
from typer.core import TyperOption

from fedserdiff.commands import options
from fedserdiff.commands.main import COMMANDS, app, load
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings

ROOT = Path(__file__).parents[1]
CALL = "import sys; sys.argv[0] = 'fedserdiff'; from fedserdiff.commands.main import app; app()"  # as pip's script does
FIELDS = {
    "rounds": "training.rounds",
    "batch_size": "training.batch_size",
    "participation": "training.participation",
    "lambda_kd": "method.lambda_kd",
    "teacher": "method.teacher",
    "shared_error_maps": "method.shared_error_maps",
    "steps": "scoring.sampling_steps",
    "dp_noise": "privacy.dp_noise",
    "dp_clip": "privacy.dp_clip",
    "retries": "machine.retries",
}
HEAVY = ("torch", "flwr", "ray", "monai", "matplotlib")


def fedserdiff(*arguments: str, **environment: str) -> str:
    """Return what the command prints and, as its last line, which heavy packages it has imported to do so."""
    imported = f"import atexit; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imported}; {CALL}", *arguments],
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(words: str) -> list[str]:
    """Return what bash is told to offer for the last of these words."""
    place = str(len(words.split(" ")) - 1)
    told = fedserdiff(_FEDSERDIFF_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=place)
    *offers, imported = told.splitlines()
    assert imported == "[]"
    return offers


def test_help_and_version_import_nothing_heavy() -> None:
    text = fedserdiff("--help")
    assert text.endswith("[]\n")
    assert all(f"│ {name} " in text for name in COMMANDS)
    assert "hospitals arrive one after another" in text
    version = fedserdiff("--version")
    assert version.startswith("fedserdiff ")
    assert version.endswith("\n[]\n")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version.split()[1] == project["version"]
    assert project["scripts"] == {"fedserdiff": "fedserdiff.commands.main:app"}


def test_help_of_a_command_imports_nothing_heavy_either() -> None:
    for name in COMMANDS:
        assert fedserdiff(name, "--help").endswith("[]\n"), name


def test_bash_completes_commands_options_and_parts_of_commands() -> None:
    assert completed("fedserdiff ") == list(COMMANDS)
    assert completed("fedserdiff simu") == ["simulate"]
    assert completed("fedserdiff simulate --evaluate-") == ["--evaluate-every", "--evaluate-sites"]
    assert set(completed("fedserdiff audit ")) == {"ledger", "overlap", "privacy", "frontier"}


def test_the_script_for_bash_does_it_in_bash(tmp_path: Path) -> None:
    installed = tmp_path / "fedserdiff"
    installed.write_text(f"#!{sys.executable}\n{CALL}\n")
    installed.chmod(0o700)
    *script, _ = fedserdiff("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").splitlines()
    asked = ("COMP_WORDS=(fedserdiff simulate --resu) COMP_CWORD=2", "_fedserdiff_completion fedserdiff")
    done = subprocess.run(
        ["bash", "-c", "\n".join([*script, *asked, 'echo "${COMPREPLY[@]}"'])],
        env={"PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == "--resume\n", done.stderr


def test_every_module_with_a_command_line_is_a_command_and_has_a_script() -> None:
    files = (ROOT / "fedserdiff" / "commands").glob("*.py")
    modules = {file.stem for file in files if "app = typer.Typer(" in file.read_text()}
    assert modules - {"main"} == set(COMMANDS)
    scripts = {file.stem for file in (ROOT / "scripts").glob("*.py")}
    assert set(COMMANDS) - {"statistics"} <= scripts
    assert "statistics" not in scripts, "it would take the place of Python's own module for every other script"


def test_a_mistyped_command_is_told_the_likely_one() -> None:
    done = CliRunner().invoke(typer.main.get_command(app), ["simulat"], prog_name="fedserdiff")
    assert done.exit_code == 2
    assert done.output.count("Did you mean 'simulate'?") == 1


def parameters(command: click.Command) -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield f"{command.name} {parameter.name}", parameter
    for part in getattr(command, "commands", {}).values():
        yield from parameters(part)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_says_what_it_is(name: str) -> None:
    for where, parameter in parameters(load(name)):
        assert getattr(parameter, "help", None), where


@pytest.mark.parametrize("name", ["simulate", "provision"])
def test_defaults_that_help_tells_are_those_that_a_run_has(name: str) -> None:
    told = 0
    for _, parameter in parameters(load(name)):
        setting = FIELDS.get(parameter.name or "")
        shown = getattr(parameter, "show_default", None)
        if setting is None or not isinstance(shown, str):
            continue
        first, *others = shown.split("; ")
        for profile, value in [("laptop", first), *(other.split(": ") for other in others)]:
            actual = make_settings(profile, method="ser-diff").value(setting)
            assert value in (str(actual), f"{actual:g}" if isinstance(actual, float) else ""), setting
            told += 1
    assert told >= 7


def test_a_federation_is_deployed_by_the_method_that_is_simulated() -> None:
    shown = {}
    for name in ("simulate", "provision", "loopback"):
        (method,) = (one for one in load(name).params if one.name == "method")
        assert isinstance(method, TyperOption)
        shown[name] = method.default or method.show_default
    assert shown == dict.fromkeys(shown, "lesion-replay")
    assert Settings().method.name == "lesion-replay"


def test_other_profiles_settings_are_told() -> None:
    assert options.default_of("training.rounds") == "2; workstation: 5; paper: 10"
    assert options.default_of("seed") == "0"


@pytest.mark.parametrize(("program", "called"), [("fedserdiff", "fedserdiff audit"), (None, "python scripts/audit.py")])
def test_a_command_names_others_in_the_way_it_was_called(tmp_path: Path, program: str | None, called: str) -> None:
    run = write_run(tmp_path, "ser-diff", 0, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]).path
    arguments = ["frontier", str(run), "--out", str(tmp_path / "out")]
    command, words = (typer.main.get_command(app), ["audit", *arguments]) if program else (load("audit"), arguments)
    done = CliRunner().invoke(command, words, prog_name=program)
    assert done.exit_code == 1
    assert f"run {called} privacy {run} first" in done.output
