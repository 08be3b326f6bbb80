"""An option without effect is reported or refused, because its user expects an effect."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import provision, simulate
from fedserdiff.commands.common import listed, seeds_of
from fedserdiff.commands.compare import app
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings


@pytest.mark.parametrize(
    ("settings", "told"), [(["--dp-clip", "1"], True), (["--dp-clip", "1", "--dp-noise", "1"], False)]
)
def test_a_setting_that_changes_nothing_is_told(settings: Sequence[str], told: bool, tmp_path: Path) -> None:
    arguments = ["--coordinator", "host:1", "--sites", "1", "--profile", "smoke", "--out", str(tmp_path / "kits")]
    done = CliRunner().invoke(provision.app, [*arguments, "--method", "fine-tune", *settings])
    assert done.exit_code == 0, done.output
    assert ("privacy.dp_clip: has no effect" in done.output) == told


@pytest.mark.parametrize(
    ("method", "setting", "said"),
    [
        ("fine-tune", ("--lambda", "2"), "method.lambda_kd: fine-tune has no such setting; its settings are: none"),
        ("distill", ("--shared-error-maps", "null"), "method.shared_error_maps: distill has no such setting; its"),
        ("ser-diff-plus", ("--teacher", "first"), "method.teacher: 'first' is not one of latest"),
        ("ewc", ("--set", "method.wieght=2"), "method.wieght: unknown setting: did you mean method.weight?"),
    ],
)
def test_a_setting_that_a_method_does_not_have_is_refused(
    method: str, setting: Sequence[str], said: str, tmp_path: Path
) -> None:
    arguments = ["--coordinator", "host:1", "--sites", "1", "--method", method, "--out", str(tmp_path / "kits")]
    done = CliRunner().invoke(provision.app, [*arguments, *setting])
    assert done.exit_code == 1
    assert f"error: {said}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--study", "steps", "--methods", "ser-diff"], "--methods: --study varies one setting instead"),
        (["--study", "steps", "--show-cases"], "--show-cases: --study varies one setting instead"),
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


def test_how_long_a_site_is_waited_for_reaches_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def stops(console: object, config: Settings, *rest: object) -> None:
        asked.append(config)
        raise ConfigError("as far as this test goes")

    monkeypatch.setattr("fedserdiff.experiments.simulated_run.open_named", stops)
    CliRunner().invoke(simulate.app, ["--profile", "smoke", "--set", "machine.site_timeout_s=7.5"])
    (config,) = asked
    assert config.machine.site_timeout_s == 7.5


def test_items_of_an_option_come_in_its_order() -> None:
    assert listed(" b,a ,,c", "--x") == ["b", "a", "c"]
    assert seeds_of("2, 0,1") == [2, 0, 1]
    with pytest.raises(ConfigError, match="--x: is empty; name at least one"):
        listed(" , ", "--x")
