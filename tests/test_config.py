import dataclasses
import json
import math
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from fedserdiff.config import PROFILES, ExperimentConfig, Site, make_config
from fedserdiff.errors import ConfigError


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_survives_json(profile: str) -> None:
    cases = ("BraTS2021_00000", "BraTS2021_00002")
    sites = (
        Site("north", "brats2021", "/data/north", cases),
        Site("b", "x", "y"),
        Site("c", "x", "z", cases, cases[:1]),
    )
    config = make_config(profile, seed=7, sites=sites, learning_rate=1 / 3)

    back = ExperimentConfig.from_dict(json.loads(json.dumps(config.to_dict())))

    assert back == config
    assert hash(back) == hash(config)  # tuples came back as tuples, not lists
    assert back.profile == profile


def test_profile_paper_trains_as_the_paper_does() -> None:
    config = make_config("paper")
    assert (config.spatial_dims, config.spacing_mm, config.batch_size) == (3, 1.0, 4)
    assert (config.epochs_per_stage, config.steps_per_stage) == (200, 0)


def test_changes_go_over_the_profile() -> None:
    config = make_config("smoke", batch_size=9)
    assert config.batch_size == 9
    assert config.grid == PROFILES["smoke"]["grid"]


def test_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown profile 'huge': choose one of laptop, paper, laptop-3d, smoke"):
        make_config("huge")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("teacher", "last"),
        ("participation", "all"),
        ("shared_error_maps", "all"),
        ("precision", "fp16"),
        ("spatial_dims", 4),
        ("seed", -1),
        ("rounds", 0),
        ("lambda_kd", -0.1),
        ("lambda_kd", math.nan),
        ("gamma", -1),
        ("map_noise", -0.1),
        ("map_noise", math.inf),
        ("ewc_weight", -1),
        ("ewc_weight", math.nan),
        ("rehearsal_share", 0),
        ("rehearsal_share", 1.1),
        ("rehearsal_share", -0.5),
        ("phantom_patients", 0),
        ("stem_factor", 0),
        ("batch_size", 0),
        ("replay_batch", -1),
        ("conditional_maps", 0),
        ("shared_maps", 0),
        ("cpus_per_site", 0.5),
        ("gpus_per_site", -1),
        ("steps_per_stage", -1),
        ("epochs_per_stage", -1),
        ("spacing_mm", 0),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("site_timeout_s", 0),
        ("stage_timeout_s", -1),
        ("max_update_rms", 0),
        ("max_update_rms", -0.1),
        ("max_update_rms", math.nan),
        ("max_update_rms", math.inf),
        ("egress_quota_mb", 0),
        ("egress_quota_mb", -1),
        ("egress_quota_mb", math.nan),
        ("retries", -1),
        ("retries", 0.5),
        ("site_failure", "ignore"),
        ("inertia", 1),
        ("inertia", -0.1),
        ("test_share", 0),
        ("test_share", 1),
        ("sampling_steps", 0),
        ("sampling_steps", 1001),
        ("map_steps", 0),
        ("map_steps", 1001),
        ("grid", (50, 64, 48)),
        ("grid", (0, 64, 48)),
        ("grid", (48, 64, 0)),
        ("grid", (-48, 64, 48)),
        ("grid", (48, 64)),
        ("modalities", ()),
        ("modalities", ("t1", "t1")),
        ("regions", ("",)),
        ("regions", (1, 2)),
        ("regions", tuple("abcdefghi")),
        ("allow_overlap", 1),
        ("allow_overlap", "yes"),
        ("allow_overlap", None),
        ("dp_noise", -1),
        ("dp_noise", math.nan),
        ("dp_clip", 0),
        ("evaluate_every", 0),
        ("evaluate_every", 1.5),
        ("evaluate_sites", -1),
        ("evaluate_sites", True),
    ],
)
def test_bad_value_is_refused_naming_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config("laptop", **{field: value})
    assert str(caught.value).startswith(f"{field}: ")
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0), (10, 10)])
def test_length_of_a_stage_is_given_once(steps: int, epochs: int) -> None:
    with pytest.raises(ConfigError, match="steps_per_stage, epochs_per_stage: set one of them"):
        make_config("laptop", steps_per_stage=steps, epochs_per_stage=epochs)


def test_grid_must_suit_the_networks_only_in_the_axes_they_convolve() -> None:
    assert make_config("laptop", grid=(48, 64, 45)).grid == (48, 64, 45)
    with pytest.raises(ConfigError, match=r"grid: .* multiple of 8, which 3 levels behind a stem of factor 2"):
        make_config("laptop", grid=(48, 64, 45), spatial_dims=3)


def test_grid_must_suit_the_deeper_of_both_networks() -> None:
    with pytest.raises(ConfigError, match="is not a multiple of 32, which 5 levels"):
        make_config("laptop", refiner_channels=(8, 8, 8, 8, 8))


def test_copy_is_checked_like_a_new_one() -> None:
    config = make_config("laptop")
    assert config.replace(seed=3) == make_config("laptop", seed=3)
    with pytest.raises(ConfigError, match="rounds: 0"):
        config.replace(rounds=0)


@pytest.mark.parametrize("method", ["rehearsal", "pooled", "ewc", "image-replay"])
def test_noise_on_weights_is_refused_where_more_than_weights_tells_of_patients(method: str) -> None:
    with pytest.raises(ConfigError, match=f"dp_noise: {method} shares more"):
        make_config("smoke", method=method, dp_noise=1.0)
    with pytest.raises(ConfigError, match=r"dp_noise: error maps made of scans \(mri\)"):
        make_config("smoke", shared_error_maps="mri", dp_noise=1.0)
    assert make_config("smoke", method="ser-diff", dp_noise=1.0).error_maps == "null"


def test_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config("laptop").seed = 3  # type: ignore[misc]


def test_stored_configuration_with_a_strange_field_is_refused() -> None:
    stored = make_config("smoke").to_dict() | {"rouns": 3, "colour": "red"}
    with pytest.raises(ConfigError, match="unknown field colour, rouns"):
        ExperimentConfig.from_dict(stored)


def test_stored_configuration_with_a_bad_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="inertia: 2 is not in"):
        ExperimentConfig.from_dict(make_config("smoke").to_dict() | {"inertia": 2})


SITES = (Site("north", "brats2021", "/scans/north", ("a", "b"), ("b",)), Site("east", "brats2020", "/scans/east"))


def smoke(**changes: Any) -> ExperimentConfig:
    return make_config("smoke", sites=SITES).replace(**changes)


OF_ONE_MACHINE: dict[str, dict[str, Any]] = {
    "cpus_per_site": {"cpus_per_site": 3},
    "gpus_per_site": {"gpus_per_site": 1},
    "site_timeout_s": {"site_timeout_s": 5},
    "stage_timeout_s": {"stage_timeout_s": 5},
    "max_update_rms": {"max_update_rms": 0.01},
    "egress_quota_mb": {"egress_quota_mb": 1},
    "retries": {"retries": 0},
    "site_failure": {"site_failure": "go-on"},
    "paths": {"sites": tuple(dataclasses.replace(site, path=f"/elsewhere/{site.name}") for site in SITES)},
    "cases": {"sites": (dataclasses.replace(SITES[0], cases=("c", "b")), SITES[1])},
    "test cases": {"sites": (dataclasses.replace(SITES[0], test_cases=("a",)), SITES[1])},
}

OF_THE_EXPERIMENT: dict[str, dict[str, Any]] = {
    "a site's name": {"sites": (dataclasses.replace(SITES[0], name="west"), SITES[1])},
    "a site's release": {"sites": (dataclasses.replace(SITES[0], release="brats2020"), SITES[1])},
    "order of arrival": {"sites": SITES[::-1]},
    "fewer sites": {"sites": SITES[:1]},
    "epochs_per_stage": {"steps_per_stage": 0, "epochs_per_stage": 4},
    "method": {"method": "ewc"},
    "profile": {"profile": "laptop"},
    "teacher": {"teacher": "latest"},
    "participation": {"participation": "cumulative"},
    "shared_error_maps": {"shared_error_maps": "mri"},
    "precision": {"precision": "fp32"},
    "spatial_dims": {"spatial_dims": 3},
    "grid": {"grid": (16, 24, 24)},
    "coarse_channels": {"coarse_channels": (8, 8)},
    "refiner_channels": {"refiner_channels": (8, 8)},
    "rehearsal_share": {"rehearsal_share": 0.5},
    "allow_overlap": {"allow_overlap": True},
    "modalities": {"modalities": ("t2", "flair", "t1", "t1ce")},
    "regions": {"regions": ("wt", "tc", "et")},
    **{name: {name: 1} for name in ("seed", "rounds", "stem_factor", "ewc_weight")},
    **{name: {name: 0.5} for name in ("lambda_kd", "gamma", "map_noise", "inertia", "test_share", "learning_rate")},
    **{name: {name: 5} for name in ("phantom_patients", "steps_per_stage", "batch_size", "spacing_mm")},
    **{name: {name: 3} for name in ("sampling_steps", "map_steps", "replay_batch", "conditional_maps", "shared_maps")},
    "inversion_steps": {"inversion_steps": 3},
    "balance_epochs": {"steps_per_stage": 0, "epochs_per_stage": 2, "balance_epochs": True},
    **{name: {name: 2} for name in ("evaluate_every", "evaluate_sites", "dp_noise", "dp_clip")},
}


@pytest.mark.parametrize("changes", OF_ONE_MACHINE.values(), ids=OF_ONE_MACHINE)
def test_two_sides_of_one_experiment_have_one_fingerprint(changes: dict[str, Any]) -> None:
    assert smoke(**changes) != smoke()
    assert smoke(**changes).fingerprint == smoke().fingerprint


@pytest.mark.parametrize("changes", OF_THE_EXPERIMENT.values(), ids=OF_THE_EXPERIMENT)
def test_another_experiment_has_another_fingerprint(changes: dict[str, Any]) -> None:
    assert smoke(**changes).fingerprint != smoke().fingerprint


def test_of_every_field_it_is_decided_whether_two_sides_have_to_agree_on_it() -> None:
    fields = {field.name for field in dataclasses.fields(ExperimentConfig)} - {"sites"}
    assert fields <= set(OF_ONE_MACHINE) | set(OF_THE_EXPERIMENT)


def test_another_version_of_the_software_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = smoke().fingerprint
    monkeypatch.setattr("fedserdiff.config.version", lambda name: "99.0")
    assert smoke().fingerprint != before


def test_equal_configurations_have_equal_fingerprints_whichever_way_they_were_read() -> None:
    config = smoke(lambda_kd=1, learning_rate=1 / 3)
    stored = ExperimentConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert stored.fingerprint == config.fingerprint
    assert config == smoke(lambda_kd=1.0, learning_rate=1 / 3)
    assert config.fingerprint == smoke(lambda_kd=1.0, learning_rate=1 / 3).fingerprint


def test_fingerprints_travel_as_flowers_integers() -> None:
    sent = [smoke(seed=seed).fingerprint for seed in range(64)]
    record = RecordDict({"asked": ConfigRecord({"experiments": sent})})
    arrived = recorddict_from_proto(recorddict_to_proto(record)).config_records["asked"]["experiments"]
    assert arrived == sent
    assert 0 <= min(sent) <= max(sent) < 2**63
    assert len(set(sent)) == len(sent)
