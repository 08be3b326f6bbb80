import dataclasses
import json
import math
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from other_values import changes_for, every_setting

from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings, profile_names


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_valid_and_survives_json(profile: str) -> None:
    cases = ("BraTS2021_00000", "BraTS2021_00002")
    sites = (
        Site("north", "brats2021", "/data/north", cases),
        Site("b", "x", "y"),
        Site("c", "x", "z", cases, cases[:1]),
    )
    config = make_settings(profile, {"training.learning_rate": 1 / 3}, seed=7, sites=sites)

    back = Settings.from_dict(json.loads(json.dumps(config.to_dict())))

    assert back == config
    assert hash(back) == hash(config)  # tuples came back as tuples, not lists
    assert back.profile == profile


def test_profile_paper_trains_as_the_paper_does() -> None:
    config = make_settings("paper")
    assert (config.data.spatial_dims, config.data.spacing_mm, config.training.batch_size) == (3, 1.0, 4)
    assert (config.training.epochs_per_stage, config.training.steps_per_stage) == (200, 0)


def test_changes_go_over_the_profile() -> None:
    config = make_settings("smoke", {"training.batch_size": 9})
    assert config.training.batch_size == 9
    assert config.data.grid == (16, 24, 16)


def test_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="unknown profile 'huge': choose one of smoke, laptop, laptop-3d, workstation, paper"
    ):
        make_settings("huge")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method.teacher", "last"),
        ("training.participation", "all"),
        ("method.shared_error_maps", "all"),
        ("network.precision", "fp8"),
        ("data.spatial_dims", 4),
        ("seed", -1),
        ("training.rounds", 0),
        ("method.lambda_kd", -0.1),
        ("method.lambda_kd", math.nan),
        ("method.gamma", -1),
        ("replay.map_noise", -0.1),
        ("replay.map_noise", math.inf),
        ("method.weight", -1),
        ("method.weight", math.nan),
        ("method.share", 0),
        ("method.share", 1.1),
        ("method.share", -0.5),
        ("data.phantom_patients", 0),
        ("network.stem_factor", 0),
        ("training.batch_size", 0),
        ("replay.batch_size", -1),
        ("replay.conditional_maps", 0),
        ("replay.shared_maps", 0),
        ("machine.cpus_per_site", 0.5),
        ("machine.gpus_per_site", -1),
        ("training.steps_per_stage", -1),
        ("training.epochs_per_stage", -1),
        ("data.spacing_mm", 0),
        ("training.learning_rate", 0),
        ("training.learning_rate", math.nan),
        ("machine.site_timeout_s", 0),
        ("machine.stage_timeout_s", -1),
        ("privacy.max_update_rms", 0),
        ("privacy.max_update_rms", -0.1),
        ("privacy.max_update_rms", math.nan),
        ("privacy.max_update_rms", math.inf),
        ("privacy.egress_quota_mb", 0),
        ("privacy.egress_quota_mb", -1),
        ("privacy.egress_quota_mb", math.nan),
        ("machine.retries", -1),
        ("machine.retries", 0.5),
        ("machine.site_failure", "ignore"),
        ("aggregation.inertia", 1),
        ("aggregation.inertia", -0.1),
        ("aggregation.strategy", "fedavg"),
        ("aggregation.server_learning_rate", 0),
        ("aggregation.server_momentum", 1),
        ("aggregation.eta", -0.1),
        ("aggregation.beta_1", 1),
        ("aggregation.beta_2", 1),
        ("aggregation.tau", 0),
        ("aggregation.beta", 0.5),
        ("data.test_share", 0),
        ("data.test_share", 1),
        ("data.validation_share", -0.1),
        ("data.validation_share", 1),
        ("scoring.patients", "training"),
        ("scoring.sampling_steps", 0),
        ("scoring.sampling_steps", 1001),
        ("replay.map_steps", 0),
        ("replay.map_steps", 1001),
        ("data.grid", (50, 64, 48)),
        ("data.grid", (0, 64, 48)),
        ("data.grid", (48, 64, 0)),
        ("data.grid", (-48, 64, 48)),
        ("data.grid", (48, 64)),
        ("data.modalities", ()),
        ("data.modalities", ("t1", "t1")),
        ("data.regions", ("",)),
        ("data.regions", (1, 2)),
        ("data.regions", tuple("abcdefghi")),
        ("data.allow_overlap", 1),
        ("data.allow_overlap", "yes"),
        ("data.allow_overlap", None),
        ("privacy.dp_noise", -1),
        ("privacy.dp_noise", math.nan),
        ("privacy.dp_clip", 0),
        ("scoring.evaluate_every", 0),
        ("scoring.evaluate_every", 1.5),
        ("scoring.evaluate_sites", -1),
        ("scoring.evaluate_sites", True),
    ],
)
def test_bad_value_is_refused_naming_field_and_value(field: str, value: Any) -> None:
    method = {"method.weight": "ewc", "method.share": "rehearsal"}.get(field, "ser-diff")
    with pytest.raises(ConfigError) as caught:
        make_settings("laptop", {field: value}, method=method)
    told = str(caught.value)
    assert told.startswith(f"{field}: ")
    assert str(value) in told or "contains" in told  # the item of a list that is wrong


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0), (10, 10)])
def test_length_of_a_stage_is_given_once(steps: int, epochs: int) -> None:
    with pytest.raises(ConfigError, match=r"training.steps_per_stage, training.epochs_per_stage: set one of them"):
        make_settings("laptop", {"training.steps_per_stage": steps, "training.epochs_per_stage": epochs})


def test_grid_must_suit_the_networks_only_in_the_axes_they_convolve() -> None:
    assert make_settings("laptop", {"data.grid": (48, 64, 45)}).data.grid == (48, 64, 45)
    with pytest.raises(
        ConfigError, match=r"data.grid: .* multiple of 8, which the 3 levels of network.coarse_channels"
    ):
        make_settings("laptop", {"data.grid": (48, 64, 45), "data.spatial_dims": 3})


def test_grid_must_suit_the_deeper_of_both_networks() -> None:
    with pytest.raises(ConfigError, match=r"is not a multiple of 32, which the 5 levels of network.refiner_channels"):
        make_settings("laptop", {"network.refiner_channels": (8, 8, 8, 8, 8)})


def test_copy_is_checked_like_a_new_one() -> None:
    config = make_settings("laptop")
    assert config.replace(seed=3) == make_settings("laptop", seed=3)
    with pytest.raises(ConfigError, match="rounds: 0"):
        config.replace({"training.rounds": 0})


@pytest.mark.parametrize("method", ["rehearsal", "pooled", "ewc", "image-replay", "lesion-replay"])
def test_noise_on_weights_is_refused_where_more_than_weights_tells_of_patients(method: str) -> None:
    with pytest.raises(ConfigError, match=f"dp_noise: {method} shares more"):
        make_settings("smoke", {"privacy.dp_noise": 1.0}, method=method)
    with pytest.raises(ConfigError, match=r"dp_noise: the noise on weights does not cover error maps made from scans"):
        make_settings("smoke", {"method.shared_error_maps": "mri", "privacy.dp_noise": 1.0}, method="ser-diff")
    assert make_settings("smoke", {"privacy.dp_noise": 1.0}, method="ser-diff").shared_error_maps == "null"


def test_configuration_cannot_be_changed_in_place() -> None:
    settings = make_settings("laptop")
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        settings.training.rounds = 3


def test_stored_configuration_with_a_strange_field_is_refused() -> None:
    stored = make_settings("smoke").to_dict() | {"rouns": 3, "colour": "red"}
    with pytest.raises(
        ConfigError,
        match=r"rouns: unknown setting: did you mean training.rounds or method.rounds\?\ncolour: unknown setting",
    ):
        Settings.from_dict(stored)


def test_stored_configuration_with_a_bad_value_is_refused() -> None:
    stored = make_settings("smoke").to_dict()
    stored["aggregation"]["inertia"] = 2
    with pytest.raises(
        ConfigError, match=r"^aggregation.inertia: 2 is not a number of at least 0 and less than 1 or method$"
    ):
        Settings.from_dict(stored)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scoring.least_ml": (0.1, 0.2)}, r"^scoring\.least_ml: 2 values for the 3 regions of data\.regions$"),
        ({"scoring.least_ml": (0.1, -0.2, 0)}, r"^scoring\.least_ml: "),
        (
            {"data.regions": ("PZ", "TZ"), "scoring.least_et_ml": 0.5},
            r"^scoring\.least_et_ml: data\.regions has no et; leave it at 0$",
        ),
        (
            {"scoring.least_from": "validation", "scoring.least_et_ml": 0.5},
            r"^scoring\.least_et_ml: scoring\.least_from = validation chooses it; set only one of them$",
        ),
        (
            {"scoring.least_from": "validation", "scoring.patients": "validation"},
            r"^scoring\.least_from: thresholds may not be chosen on the validation patients",
        ),
    ],
)
def test_thresholds_of_masks_fit_the_regions_and_are_not_chosen_on_who_is_scored(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_settings("smoke", changes)


def test_shares_to_test_and_to_validate_on_leave_somebody_to_train_on() -> None:
    assert make_settings("smoke", {"data.validation_share": 0.75}).data.validation_share == 0.75
    with pytest.raises(
        ConfigError, match=r"^data.test_share, data.validation_share: 0.2 and 0.8 leave no patients to train on"
    ):
        make_settings("smoke", {"data.validation_share": 0.8})


SITES = (Site("north", "brats2021", "/scans/north", ("a", "b"), ("b",)), Site("east", "brats2020", "/scans/east"))


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", sites=SITES).replace(changes)


SITES_OF_ONE_MACHINE: dict[str, dict[str, Any]] = {
    "paths": {"sites": tuple(dataclasses.replace(site, path=f"/elsewhere/{site.name}") for site in SITES)},
    "cases": {"sites": (dataclasses.replace(SITES[0], cases=("c", "b")), SITES[1])},
    "test cases": {"sites": (dataclasses.replace(SITES[0], test_cases=("a",)), SITES[1])},
    "validation cases": {"sites": (dataclasses.replace(SITES[0], validation_cases=("a",)), SITES[1])},
}

SITES_OF_THE_EXPERIMENT: dict[str, dict[str, Any]] = {
    "a site's name": {"sites": (dataclasses.replace(SITES[0], name="west"), SITES[1])},
    "a site's release": {"sites": (dataclasses.replace(SITES[0], release="brats2020"), SITES[1])},
    "order of arrival": {"sites": SITES[::-1]},
    "fewer sites": {"sites": SITES[:1]},
    "method": {"method": "ewc"},
    "profile": {"profile": "laptop"},
}

OF_ONE_MACHINE = {
    "machine.cpus_per_site", "machine.gpus_per_site", "machine.site_timeout_s", "machine.stage_timeout_s",
    "machine.retries", "machine.site_failure", "machine.repeatable", "machine.compile",
    "privacy.max_update_rms", "privacy.egress_quota_mb", "privacy.statistics",
}  # fmt: skip
"""The settings on which coordinator and hospitals need not agree, and no others."""


@pytest.mark.parametrize("changes", SITES_OF_ONE_MACHINE.values(), ids=SITES_OF_ONE_MACHINE)
def test_two_sides_of_one_experiment_have_one_fingerprint(changes: dict[str, Any]) -> None:
    assert smoke(**changes) != smoke()
    assert smoke(**changes).fingerprint == smoke().fingerprint


@pytest.mark.parametrize("changes", SITES_OF_THE_EXPERIMENT.values(), ids=SITES_OF_THE_EXPERIMENT)
def test_another_experiment_has_another_fingerprint(changes: dict[str, Any]) -> None:
    assert smoke(**changes).fingerprint != smoke().fingerprint


@pytest.mark.parametrize(("method", "name"), [(method, one.name) for method, one in every_setting()])
def test_a_setting_changes_the_fingerprint_unless_it_is_one_machines(method: str, name: str) -> None:
    """A setting that is new is in, unless it says otherwise and this list does, too."""
    before = smoke(method=method)
    changes = changes_for(before, name)
    if changes is None:
        assert (method, name) == ("ser-diff-plus", "method.teacher"), "which has one value"
        return
    after = before.replace(changes)
    assert after != before
    assert (after.fingerprint == before.fingerprint) == (name in OF_ONE_MACHINE)


def test_another_version_of_the_software_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = smoke().fingerprint
    monkeypatch.setattr("fedserdiff.settings.experiment.version", lambda name: "99.0")
    assert smoke().fingerprint != before


def test_equal_configurations_have_equal_fingerprints_whichever_way_they_were_read() -> None:
    config = smoke(**{"method.lambda_kd": 1, "training.learning_rate": 1 / 3})
    stored = Settings.from_dict(json.loads(json.dumps(config.to_dict())))
    assert stored.fingerprint == config.fingerprint
    assert config == smoke(**{"method.lambda_kd": 1.0, "training.learning_rate": 1 / 3})
    assert config.fingerprint == smoke(**{"method.lambda_kd": 1.0, "training.learning_rate": 1 / 3}).fingerprint


def test_fingerprints_travel_as_flowers_integers() -> None:
    sent = [smoke(seed=seed).fingerprint for seed in range(64)]
    record = RecordDict({"asked": ConfigRecord({"experiments": sent})})
    arrived = recorddict_from_proto(recorddict_to_proto(record)).config_records["asked"]["experiments"]
    assert arrived == sent
    assert 0 <= min(sent) <= max(sent) < 2**63
    assert len(set(sent)) == len(sent)
