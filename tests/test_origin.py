"""Whether a run is the one that is wanted: by settings, software and the content of scans, not by names."""

from dataclasses import replace
from typing import Any

import pytest

from fedserdiff.config import Site, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.origin import Origin, installed_versions

SITES = tuple(Site(name, "brats2021", f"/scans/{name}", (f"{name}-1", f"{name}-2")) for name in ("north", "west"))
CONFIG = make_config("smoke", sites=SITES)
SCANS = {"north": "a", "west": "b"}
ORIGIN = Origin(CONFIG, installed_versions(), "ours.toml", {}, SCANS)


def other(site: int, **changes: Any) -> tuple[Site, ...]:
    return tuple(replace(one, **changes) if place == site else one for place, one in enumerate(SITES))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cpus_per_site": 8},
        {"gpus_per_site": 1.0},
        {"site_timeout_s": 1.0, "stage_timeout_s": 9.0},
        {"retries": 0, "site_failure": "go-on"},
        {"sites": other(1, path="/elsewhere")},
        {"lambda_kd": 1},  # 1.0
    ],
    ids=str,
)
def test_where_a_run_runs_and_where_scans_lie_makes_it_no_other_run(changes: dict[str, Any]) -> None:
    assert not ORIGIN.difference(CONFIG.replace(**changes), SCANS)


@pytest.mark.parametrize(
    ("changes", "scans", "says"),
    [
        ({}, {"north": "a", "west": "rolled"}, "scans or segmentations of west have changed"),
        ({}, {"north": "x", "west": "y"}, "scans or segmentations of north, west have changed"),
        ({"sites": other(0, cases=("north-1",))}, SCANS, "other cases of north"),
        ({"sites": other(1, test_cases=("west-2",))}, SCANS, "other cases of west"),
    ],
    ids=str,
)
def test_other_scans_are_told_by_site(changes: dict[str, Any], scans: dict[str, str], says: str) -> None:
    found = ORIGIN.difference(CONFIG.replace(**changes), scans)
    assert str(found).endswith(says)
    assert found.scans
    assert not found.settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"learning_rate": 0.1}, "learning_rate was 0.002, is 0.1"),
        ({"allow_overlap": True}, "allow_overlap was False, is True"),
        ({"sites": SITES[::-1]}, "sites were north (brats2021), west (brats2021), are west (brats2021), north"),
        ({"sites": other(0, release="brats2020")}, "sites were north (brats2021), "),
    ],
    ids=str,
)
def test_another_experiment_is_told_by_its_settings(changes: dict[str, Any], says: str) -> None:
    found = ORIGIN.difference(CONFIG.replace(**changes), SCANS)
    assert says in "; ".join(found.settings)


def test_every_setting_that_determines_a_result_is_among_those_that_are_compared() -> None:
    """As coordinator and hospitals agree on them; a field that is new is in, unless somebody says otherwise."""
    machine = set(CONFIG.to_dict()) - set(CONFIG.agreed) | {"sites"}
    values = {"method": "ewc", "profile": "laptop", "teacher": "latest", "participation": "cumulative",
              "shared_error_maps": "mri", "precision": "fp32", "spatial_dims": 3, "modalities": ("T2",),
              "regions": ("wt",), "grid": (16, 24, 24), "coarse_channels": (16, 16), "refiner_channels": (16, 16),
              "stem_factor": 1, "epochs_per_stage": 4, "inertia": 0.3, "test_share": 0.3, "rehearsal_share": 0.5,
              "allow_overlap": True, "balance_epochs": True, "dp_noise": 0.1}  # fmt: skip
    for name, value in CONFIG.to_dict().items():
        if name not in machine:
            changes = {name: values[name] if name in values else value + 1}
            changes |= {"steps_per_stage": 0} if name in ("epochs_per_stage", "balance_epochs") else {}
            changes |= {"epochs_per_stage": 4} if name == "balance_epochs" else {}
            assert ORIGIN.difference(CONFIG.replace(**changes), SCANS).settings, name


def test_other_software_is_told_but_not_another_python() -> None:
    made = replace(ORIGIN, versions={**installed_versions(), "torch": "1.0", "python": "3.0"})
    now = installed_versions()["torch"]
    assert str(made.difference(CONFIG, SCANS)) == f"torch 1.0 then, {now} now"


@pytest.mark.parametrize(
    "values", [{}, {"data": None}, {"versions": {}, "data": {"name": "x"}}, {"method": 3, "versions": {}, "data": {}}]
)
def test_what_no_simulation_wrote_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is not what a run writes there"):
        Origin.from_dict(values)
