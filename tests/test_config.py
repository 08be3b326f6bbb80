import dataclasses
import json
import math
from typing import Any

import pytest

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
        ("inertia", 1),
        ("inertia", -0.1),
        ("test_share", 0),
        ("test_share", 1),
        ("sampling_steps", 0),
        ("sampling_steps", 1001),
        ("grid", (50, 64, 48)),
        ("grid", (0, 64, 48)),
        ("grid", (48, 64, 0)),
        ("grid", (-48, 64, 48)),
        ("grid", (48, 64)),
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
