"""A run is recognised by its settings, its software and the content of its scans, not by names."""

from dataclasses import replace
from typing import Any

import pytest
from other_values import changes_for, every_setting

from fedserdiff.errors import ConfigError
from fedserdiff.origin import Origin, installed_versions
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

SITES = tuple(Site(name, "brats2021", f"/scans/{name}", (f"{name}-1", f"{name}-2")) for name in ("north", "west"))
CONFIG = make_settings("smoke", sites=SITES)
SCANS = {"north": "a", "west": "b"}
ORIGIN = Origin(CONFIG, installed_versions(), "ours.toml", {}, SCANS)


def other(site: int, **changes: Any) -> tuple[Site, ...]:
    return tuple(replace(one, **changes) if place == site else one for place, one in enumerate(SITES))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"machine.cpus_per_site": 8},
        {"machine.gpus_per_site": 1.0},
        {"machine.site_timeout_s": 1.0, "machine.stage_timeout_s": 9.0},
        {"machine.retries": 0, "machine.site_failure": "go-on"},
        {"sites": other(1, path="/elsewhere")},
        {"method.lambda_kd": 1},  # 1.0
    ],
    ids=str,
)
def test_where_a_run_runs_and_where_scans_lie_makes_it_no_other_run(changes: dict[str, Any]) -> None:
    assert not ORIGIN.difference(CONFIG.replace(changes), SCANS)


@pytest.mark.parametrize(
    ("changes", "scans", "says"),
    [
        ({}, {"north": "a", "west": "rolled"}, "scans or segmentations of west have changed"),
        ({}, {"north": "x", "west": "y"}, "scans or segmentations of north, west have changed"),
        ({"sites": other(0, cases=("north-1",))}, SCANS, "other cases of north"),
        ({"sites": other(1, test_cases=("west-2",))}, SCANS, "other cases of west"),
        ({"sites": other(0, validation_cases=("north-2",))}, SCANS, "other cases of north"),
    ],
    ids=str,
)
def test_other_scans_are_told_by_site(changes: dict[str, Any], scans: dict[str, str], says: str) -> None:
    found = ORIGIN.difference(CONFIG.replace(changes), scans)
    assert str(found).endswith(says)
    assert found.scans
    assert not found.settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"training.learning_rate": 0.1}, "training.learning_rate was 0.002, is 0.1"),
        ({"data.validation_share": 0.2}, "data.validation_share was 0.0, is 0.2"),
        ({"scoring.patients": "validation"}, "scoring.patients was 'test', is 'validation'"),
        ({"data.allow_overlap": True}, "data.allow_overlap was False, is True"),
        ({"sites": SITES[::-1]}, "sites were north (brats2021), west (brats2021), are west (brats2021), north"),
        ({"sites": other(0, release="brats2020")}, "sites were north (brats2021), "),
    ],
    ids=str,
)
def test_another_experiment_is_told_by_its_settings(changes: dict[str, Any], says: str) -> None:
    found = ORIGIN.difference(CONFIG.replace(changes), SCANS)
    assert says in "; ".join(found.settings)


@pytest.mark.parametrize(("method", "name"), [(method, one.name) for method, one in every_setting()])
def test_a_setting_that_decides_a_result_is_told_where_it_differs_and_no_other(method: str, name: str) -> None:
    config = CONFIG.replace(method=method)
    if (changes := changes_for(config, name)) is None:
        return  # it has one value
    told = replace(ORIGIN, config=config).difference(config.replace(changes), SCANS).settings
    in_question = [text for text in told if text.startswith(f"{name} was ")]
    assert len(in_question) == (0 if one_machines(name) else 1)


def one_machines(name: str) -> bool:
    """As `test_experiment_settings` has them."""
    return name.startswith("machine.") or name in (
        "privacy.max_update_rms", "privacy.egress_quota_mb", "privacy.statistics",
    )  # fmt: skip


def test_other_software_is_told_but_not_another_python() -> None:
    made = replace(ORIGIN, versions={**installed_versions(), "torch": "1.0", "python": "3.0"})
    now = installed_versions()["torch"]
    assert str(made.difference(CONFIG, SCANS)) == f"torch 1.0 then, {now} now"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"provenance": None},
        {"provenance": {"versions": {}, "name": "x"}},
        {"method": 3, "provenance": {"versions": {}, "name": "x", "overlap": {}, "scans": {}}},
    ],
)
def test_what_no_simulation_wrote_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is not the config\.json of a run of this version"):
        Origin.from_dict(values)
