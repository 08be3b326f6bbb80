"""A method and a network from a package outside the project: how they are found, and how a guard treats them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_plugin import METHOD, NETWORK, SOURCES, install
from flwr.app import Array, ArrayRecord, RecordDict
from rich.console import Console
from traffic import on_the_wire

from fedserdiff import methods, networks, plugins, wire
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import get_release
from fedserdiff.data.site_cases import site_cases
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError, ReplyError
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.experiments.simulated_run import begin
from fedserdiff.methods import METHODS, get_method
from fedserdiff.methods.method import TAKEN, Method
from fedserdiff.origin import installed_versions, other_versions
from fedserdiff.reply_schema import ArrayRule, admit, reply_rules
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.foreign import foreign, not_allowed, packages
from fedserdiff.settings.sources import layers_of, make_settings

CODE = "import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n"
"""Code of a module that leaves a file when it is imported."""


def forget() -> None:
    for known in (plugins.installed, methods._foreign):
        known.cache_clear()


@pytest.fixture
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCES))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_path: None) -> Iterator[None]:
    """The package as pip would have installed it."""
    monkeypatch.syspath_prepend(str(install(tmp_path / "installed")))
    forget()
    yield
    forget()


def settings(method: str = METHOD, **changes: Any) -> Settings:
    return make_settings("smoke", {"network.coarse": NETWORK, **changes}, method=method)


def test_what_a_package_brings_is_found_by_name(installed: None) -> None:
    assert "size-prior" in METHODS
    assert "plain" in networks.names()
    config = make_settings("smoke", {"network.coarse": "plain", "method.strength": 2.0}, method="size-prior")
    assert config.value("method.strength") == 2
    assert type(new_student(config).coarse).__name__ == "Plain"
    assert get_method("size-prior") is get_method(METHOD)
    assert (methods.is_foreign("size-prior"), networks.is_foreign("plain")) == (True, True)
    assert (methods.is_foreign("ewc"), networks.is_foreign("segresnet")) == (False, False)


def test_what_a_package_brings_is_not_known_without_it() -> None:
    with pytest.raises(ConfigError, match="unknown method 'size-prior': choose one of der, distill"):
        make_settings("smoke", method="size-prior")
    with pytest.raises(ConfigError, match=r"network.coarse: 'plain' is not one of unet, segresnet"):
        make_settings("smoke", {"network.coarse": "plain"})


def test_nothing_of_a_package_runs_before_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "marked-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marked\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fedserdiff.methods]\nmarked = marked_by_import:METHOD\n"
        "[fedserdiff.networks]\nmarked = marked_by_import:build\n"
    )
    (tmp_path / "marked_by_import.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    try:
        assert "marked" in list(METHODS)
        with pytest.raises(ConfigError, match="unknown setting"):
            make_settings("smoke", {"training.bach_size": 3})
        assert not (tmp_path / "marked_by_import.ran").exists()
        with pytest.raises(ConfigError, match=r"method marked: cannot be imported .*METHOD"):
            make_settings("smoke", method="marked")
        assert (tmp_path / "marked_by_import.ran").exists()
    finally:
        forget()
        sys.modules.pop("marked_by_import", None)


def test_a_method_that_calls_itself_otherwise_than_its_entry_point_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_the_path: None
) -> None:
    file = next(install(tmp_path).glob("*/entry_points.txt"))
    file.write_text(file.read_text().replace("size-prior =", "prior ="))
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    try:
        with pytest.raises(ConfigError, match="method prior: its name is size-prior"):
            get_method("prior")
    finally:
        forget()


def handed_over(**arrays: Any) -> RecordDict:
    return RecordDict({"region-shares": ArrayRecord({name: Array(np.asarray(a)) for name, a in arrays.items()})})


SENT = ArrayRecord({"weights": Array(np.zeros(100, np.float32))})


def test_a_record_that_the_methods_schema_describes_leaves_and_is_read(on_the_path: None) -> None:
    config = settings()
    shares = torch.tensor([0.1, 0.3, 0.2])
    content = RecordDict(dict(wire.memory_to_records({"region-shares": {"shares": shares}})))
    left = admit(content, reply_rules(wire.CONSOLIDATE, config, 0, SENT))
    assert on_the_wire(left) == on_the_wire(content)
    kept = wire.memory_of(left, new_student(config), config.replace(sites=(Site("north", "brats2021", ""),)))
    assert torch.equal(kept["region-shares"]["shares"], shares)


@pytest.mark.parametrize(
    "content",
    [
        handed_over(shares=np.full(3, 1.5, np.float32)),
        handed_over(shares=np.full(3, -0.1, np.float32)),
        handed_over(shares=np.full(4, 0.5, np.float32)),
        handed_over(shares=np.full(3, 0.5)),
        handed_over(scan=np.full(3, 0.5, np.float32)),
        handed_over(shares=np.full(3, 0.5, np.float32), scan=np.zeros(9, np.float32)),
        RecordDict({"scan": ArrayRecord({"shares": Array(np.full(3, 0.5, np.float32))})}),
        RecordDict({**handed_over(shares=np.full(3, 0.5, np.float32)), "scan": ArrayRecord()}),
    ],
)
def test_a_record_that_the_methods_schema_does_not_describe_is_refused(content: RecordDict, on_the_path: None) -> None:
    rules = reply_rules(wire.CONSOLIDATE, settings(), 0, SENT)
    with pytest.raises(ReplyError):
        admit(content, rules)


def no_rules(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    return {}


def other_rules(config: Settings, student: ArrayRecord) -> dict[str, Any]:
    return {"shares": "anything"}


def failing(config: Settings, student: ArrayRecord) -> dict[str, ArrayRule]:
    raise KeyError("nothing")


def of(records: str) -> Method:
    return Method("mine", "", "a:b", "c:d", hands_over="mine", records=f"test_plugins:{records}")


NONE, OTHER, FAILING = of("no_rules"), of("other_rules"), of("failing")


@pytest.mark.parametrize(
    ("method", "error", "told"),
    [
        ("NONE", ReplyError, "^no reply to a train.consolidate message was agreed$"),
        ("OTHER", ReplyError, "^mine: test_plugins:other_rules: the rule of shares is not an ArrayRule$"),
        ("FAILING", ConfigError, "^method mine: records: test_plugins:failing fails .KeyError: 'nothing'.$"),
    ],
)
def test_without_rules_nothing_leaves(method: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        reply_rules(wire.CONSOLIDATE, make_settings("smoke", method=f"test_plugins:{method}"), 0, SENT)


@pytest.mark.parametrize(
    ("hands_over", "records", "told"),
    [
        *((name, "a:b", f"hands_over: '{name}' is already the name of a record") for name in sorted(TAKEN)),
        ("mine", "", "hands_over, records: declare a record with its rules, or neither"),
        ("", "a:b", "hands_over, records: declare a record with its rules, or neither"),
    ],
)
def test_a_method_names_a_record_of_its_own_and_its_rules(hands_over: str, records: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^method mine: {told}$"):
        Method("mine", "", "a:b", "c:d", hands_over=hands_over, records=records)


def test_the_names_that_are_taken_are_those_of_the_wire() -> None:
    of_wire = (wire.ARRAYS, wire.TEACHER, wire.CONFIG, wire.LEFT_OUT, wire.METRICS, wire.SITE, wire.SCANS)
    assert set(of_wire) == TAKEN


def test_noise_on_weights_does_not_cover_what_others_methods_hand_over(on_the_path: None) -> None:
    with pytest.raises(ConfigError, match=r"privacy.dp_noise: .* shares more about its patients"):
        settings(**{"privacy.dp_noise": 1.0})


def test_the_version_of_a_package_is_part_of_the_experiment(
    tmp_path: Path, installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_settings("smoke", {"network.coarse": "plain"}, method="size-prior")
    before, plain = config.fingerprint, make_settings("smoke").fingerprint
    made = installed_versions(config)
    assert made["fedserdiff-example"] == "1.0"
    assert other_versions(made) == []
    assert "fedserdiff-example" not in installed_versions(make_settings("smoke"))

    (info,) = (tmp_path / "installed").iterdir()
    (info / "METADATA").write_text((info / "METADATA").read_text().replace("Version: 1.0", "Version: 1.1"))
    forget()
    assert config.fingerprint != before
    assert make_settings("smoke").fingerprint == plain
    assert other_versions(made) == ["fedserdiff-example 1.0 then, 1.1 now"]


def test_a_release_of_a_package_is_read_as_brats_own(
    installed: None, tmp_path: Path, write_case: Any, draw_volumes: Any
) -> None:
    for number in (1, 2):
        write_case(tmp_path, draw_volumes(number, enhancing=7), name=f"NORTH-00{number}")
    config = make_settings("smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0})
    cases = site_cases(Site("north", "north-mri", str(tmp_path)), config)
    assert [(case.name, case.patient) for case in cases] == [("NORTH-001", "NORTH-001"), ("NORTH-002", "NORTH-002")]
    prepared = prepare_case(cases[0], config.data.grid, config.data.spacing_mm)
    assert prepared.mask[config.data.regions.index("et")].sum() == 2, "two voxels have the label 7"
    assert get_release("fedserdiff_example.release:RELEASE") is get_release("north-mri")


def test_a_release_that_nothing_brings_is_refused_with_those_there_are(installed: None) -> None:
    with pytest.raises(ConfigError, match=r"unknown release 'north-mr': did you mean north-mri\? choose one of brats"):
        get_release("north-mr")
    with pytest.raises(ConfigError, match=r"release fedserdiff_example.method:METHOD: is a Method, not a Release"):
        get_release(METHOD)


def test_a_release_of_others_is_code_of_others_and_part_of_what_is_agreed(installed: None) -> None:
    sites = [{"name": "north", "release": "north-mri"}, {"name": "west", "release": "brats2021"}, {"name": "x"}, 3]
    assert list(foreign({"sites": sites})) == [("release", "north-mri")]
    assert packages({"sites": sites}) == {"fedserdiff-example": "1.0"}
    assert not_allowed({"sites": sites}, ["north-mri"]) is None
    assert "the release north-mri does not come with fedserdiff" in str(not_allowed({"sites": sites}, []))


def test_a_method_whose_half_cannot_be_imported_is_refused_before_anything_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_a_method.py").write_text(
        "from fedserdiff.methods.method import Method\n"
        "METHOD = Method('half', 'a half', 'half_a_method:Nothing', 'sites.objectives.fine_tune:FineTuneObjective')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    layers = layers_of("smoke").on_top("test", {"method": "half_a_method:METHOD"})
    with pytest.raises(ConfigError, match=r"^method half: half_a_method:Nothing cannot be imported"):
        begin(Console(quiet=True), layers, None, 2, Cache(tmp_path / "cache"), None, None, False, False)
    assert not (tmp_path / "cache").exists()


def test_help_lists_a_method_of_others_and_imports_nothing_of_it(tmp_path: Path) -> None:
    """One that is broken must not take the commands with it."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedserdiff.methods]\nbroken-method = no_such_module:METHOD\n")
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "fedserdiff.commands.simulate", "--help"],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "broken-method" in done.stdout
