"""Each attack of ``audit.py privacy`` on data that leak and on data that cannot, at small size."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments.privacy_audit import attacks, models, updates
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital

CONFIG = make_settings(
    "smoke",
    {
        "data.grid": (24, 32, 24),
        "data.spacing_mm": 6.0,
        "training.steps_per_stage": 100,
        "training.rounds": 1,
        "training.batch_size": 8,
        "training.learning_rate": 4e-3,
        "replay.shared_maps": 16,
        "network.precision": "fp32",
    },
    method="ser-diff",
)


@pytest.fixture(scope="module")
def target(hospital: Hospital) -> Any:
    """Four patients that were trained on, and 24 that were not."""
    own = replace(hospital, training=hospital.training[:4])
    untrained = new_student(CONFIG)
    student = models.train(untrained, own.training, CONFIG, "target")
    return models.Target(own, hospital.training[4:], 1, untrained, student, None)


@pytest.fixture(scope="module")
def of_weights(target: Any, shadows: Any) -> dict[tuple[str, str], Any]:
    return by_name(attacks.control_weights(target, shadows, CONFIG))


@pytest.fixture(scope="module")
def of_maps(target: Any, shadows: Any) -> dict[tuple[str, str], Any]:
    return by_name(attacks.control_maps(target, shadows, CONFIG))


@pytest.fixture(scope="module")
def shadows(target: Any) -> Any:
    return models.train_shadows(target, 2, CONFIG, lambda done: None)


def guesses(auc: Any) -> bool:
    """Whether 0.5 is in an interval, or near it: an interval of 95 % misses it once in twenty times."""
    return bool(auc.low <= 0.55 and auc.high >= 0.45)


def by_name(findings: Any) -> dict[tuple[str, str], Any]:
    return {(one.channel, one.attack): one for one in findings}


@pytest.mark.parametrize("name", ["coarse loss", "coarse loss, calibrated", "refined loss, calibrated"])
def test_membership_is_found_where_a_student_memorises_and_not_among_patients_never_seen(
    of_weights: dict[tuple[str, str], Any], name: str
) -> None:
    assert of_weights[attacks.MEMORISER, name].auc.low > 0.5
    assert guesses(of_weights[attacks.NEVER_SEEN, name].auc)


@pytest.mark.parametrize("name", ["nearest contour", "nearest error map"])
@pytest.mark.parametrize("calibrated", ["", ", calibrated"])
def test_copies_are_found_among_maps_and_patients_that_a_student_never_saw_are_not(
    of_maps: dict[tuple[str, str], Any], name: str, calibrated: str
) -> None:
    copied, never = (of_maps[channel, name + calibrated] for channel in (attacks.COPIES, attacks.NEVER))
    assert copied.auc.low > 0.5
    assert guesses(never.auc)
    if not calibrated:
        assert copied.distance.ratio.high < 1
        assert never.distance.ratio.low <= 1.02
        assert never.distance.ratio.high >= 0.98


def test_canaries_are_found_among_copies_and_not_in_maps_of_a_student_that_never_saw_them(
    target: Any, shadows: Any
) -> None:
    found = by_name(attacks.attack_canaries(target, shadows, CONFIG))
    for attack in ("canaries", "canaries, calibrated"):
        assert found[attacks.COPIES, attack].auc.low > 0.5
        assert guesses(found[attacks.NEVER, attack].auc)
    assert found["untrained null error maps", "canaries"].auc.value == 0.5  # its maps are empty


def test_a_slice_is_had_back_from_a_dense_networks_gradient_and_not_from_another_slices(target: Any) -> None:
    found = by_name(updates.control_updates(target, CONFIG))
    leaks, cannot = (found[channel, "update inversion"] for channel in (attacks.DENSE, attacks.OTHERS))
    assert leaks.auc.low > 0.9
    assert leaks.resemblance.found.low > leaks.resemblance.mean_slice.high
    assert guesses(cannot.auc)
    assert cannot.resemblance.found.value < leaks.resemblance.found.value


def test_a_shadow_is_asked_about_those_alone_whom_it_did_not_see(shadows: Any, target: Any) -> None:
    everyone = {c.case.patient for c in (*target.hospital.training, *target.others)}
    for shadow in shadows:
        assert set(shadow.losses) == everyone - shadow.patients
    assert not shadows[0].patients & shadows[1].patients


def test_a_stages_weights_are_attacked_by_each_loss_in_both_ways(
    shadows: Any, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "_AS_LONG", 1)
    found = by_name(attacks.attack_weights(target, target.before, shadows, CONFIG))
    for channel in ("student of stage 1", "last student", attacks.GREEDY):
        assert {attack for c, attack in found if c == channel} == {
            "coarse loss",
            "refined loss",
            "coarse loss, calibrated",
            "refined loss, calibrated",
        }
    assert all((one.members, one.others) == (4, 24) for one in found.values())


def test_training_is_repeatable_and_leaves_its_start_alone(target: Any) -> None:
    config: Settings = CONFIG.replace({"training.steps_per_stage": 2})
    before = {name: weight.clone() for name, weight in target.before.state_dict().items()}
    first, second = (models.train(target.before, target.hospital.training, config, "a") for _ in range(2))
    assert all(torch.equal(w, second.state_dict()[name]) for name, w in first.state_dict().items())
    assert all(torch.equal(w, before[name]) for name, w in target.before.state_dict().items())
    assert any(not torch.equal(w, before[name]) for name, w in first.state_dict().items())
