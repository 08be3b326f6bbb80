"""An option that changes nothing is told or refused: who gives it believes that it does something."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedserdiff.commands.common import listed, seeds_of
from fedserdiff.commands.compare import app
from fedserdiff.commands.options import idle_note
from fedserdiff.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "method", "idle"),
    [
        ({"lambda_kd": 2.0, "teacher": "first", "rounds": 3}, "fine-tune", "--lambda, --teacher"),
        ({"lambda_kd": 2.0, "teacher": "first"}, "ser-diff", ""),
        ({"shared_error_maps": "null"}, "distill", "--shared-error-maps"),
        ({"shared_error_maps": "null"}, "ser-diff-plus", ""),
        ({"dp_clip": 1.0}, "ser-diff", "--dp-clip"),
        ({"dp_clip": 1.0, "dp_noise": 0.5}, "ser-diff", ""),
    ],
)
def test_settings_that_a_method_makes_no_use_of_are_named(given: dict[str, Any], method: str, idle: str) -> None:
    assert (idle_note(given, method) or "").partition(":")[0] == idle


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--study", "steps", "--methods", "ser-diff"], "--methods: --study varies one thing instead"),
        (["--study", "steps", "--show-cases"], "--show-cases: --study varies one thing instead"),
        (["--methods", "ser-diff,fine-tune, ser-diff"], "--methods: ser-diff is named twice"),
        (["--seeds", "0,1,00"], "--seeds: 0 is named twice"),
    ],
)
def test_compare_refuses_what_it_would_not_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["--profile", "smoke", *arguments])
    assert done.exit_code == 1, done.output
    assert said in done.stderr
    assert not any(tmp_path.iterdir())


def test_items_of_an_option_come_in_its_order() -> None:
    assert listed(" b,a ,,c", "--x") == ["b", "a", "c"]
    assert seeds_of("2, 0,1") == [2, 0, 1]
    with pytest.raises(ConfigError, match="--x: name at least one"):
        listed(" , ", "--x")
