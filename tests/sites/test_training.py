import copy
from pathlib import Path

import pytest
import torch
from painted import moments
from students import lively_student

import sites.objectives.ewc
from fedserdiff.diffusion.objective import Terms
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from fedserdiff.wire import LESION_MOMENTS
from sites.hospital import Hospital
from sites.objectives.fine_tune import FineTuneObjective
from sites.step import weighted_terms
from sites.training import Order, consolidate, run_round
from strategies.stream import make_stream


def trained(config: Settings, hospital: Hospital, rounds: tuple[int, ...]) -> tuple[Student, list[int]]:
    student = new_student(config)
    steps: list[int] = []
    for server_round in rounds:
        order = Order(stage=1, server_round=server_round)
        run_round(student, order, hospital, lambda s: hospital, config, lambda step, of, terms: steps.append(step))
    return student, steps


def test_rounds_share_a_stages_steps_without_gap_or_overlap(hospital: Hospital) -> None:
    config = make_settings("smoke", {"training.rounds": 3, "training.steps_per_stage": 7}, method="fine-tune")
    _, steps = trained(config, hospital, (1, 2, 3))
    assert steps == list(range(1, 8))


def test_epochs_count_passes_over_the_sites_slices(hospital: Hospital) -> None:
    config = make_settings(
        "smoke",
        {"training.rounds": 1, "training.steps_per_stage": 0, "training.epochs_per_stage": 1, "training.batch_size": 8},
        method="fine-tune",
    )
    slices = sum(int((c.prepared.image != 0).any((0, 1, 2)).sum()) for c in hospital.training)
    _, steps = trained(config, hospital, (1,))
    assert len(steps) == -(-slices // 8)


def test_pooling_takes_as_many_steps_as_the_stream_in_steps_and_in_epochs(hospital: Hospital) -> None:
    """Two imaginary sites that hold the same cases: the pooled stage is as long as their two stages together."""
    for length in (
        {"training.steps_per_stage": 3},
        {"training.steps_per_stage": 0, "training.epochs_per_stage": 1, "training.batch_size": 1},
    ):
        config = make_settings("smoke", {"training.rounds": 1, **length}, method="pooled", sites=(hospital.site,) * 2)
        counts = []
        (plan,) = make_stream(config).stages([hospital.site.name] * 2)
        for method, order in (("fine-tune", Order(1, 1)), ("pooled", Order(1, 1, length=plan.length))):
            steps: list[int] = []
            one = config.replace(method=method)
            run_round(
                new_student(one), order, hospital, lambda s: hospital, one, lambda s, n, t, steps=steps: steps.append(s)
            )
            counts.append(len(steps))
        assert counts[1] == 2 * counts[0]


@pytest.mark.parametrize(
    "length", [{"training.steps_per_stage": 3}, {"training.steps_per_stage": 0, "training.epochs_per_stage": 1}]
)
def test_a_stage_four_times_as_long_takes_four_times_the_steps(hospital: Hospital, length: dict[str, int]) -> None:
    """The audit's memoriser and its longer-training attacker need this for stages counted in steps or epochs."""
    config = make_settings("smoke", {"training.rounds": 1, **length}, method="fine-tune")
    counts = []
    for order in (Order(1, 1), Order(1, 1, length=4)):
        steps: list[int] = []
        student = new_student(config)
        run_round(student, order, hospital, lambda s: hospital, config, lambda s, n, t, steps=steps: steps.append(s))
        counts.append(len(steps))
    assert counts[1] == 4 * counts[0]


def test_what_several_lessons_distil_adds_up() -> None:
    """The loss that is minimised has every lesson's distillation, each weighted by λ."""
    config = make_settings("smoke", {"method.lambda_kd": 0.5})
    lessons = {
        "segmentation": Terms(torch.tensor(1.0), torch.tensor(2.0)),
        "replay": Terms(torch.tensor(4.0), torch.tensor(16.0)),
        "plain": Terms(torch.tensor(32.0)),
    }
    losses = weighted_terms(FineTuneObjective(config), "coarse", new_student(config), lessons)
    assert {name: float(value) for name, value in losses.items()} == {
        "segmentation": 1.0,
        "replay": 0.5 * 4,
        "plain": 0.5 * 32,
        "distillation": 0.5 * (2 + 16),
    }


def test_a_round_repeats_exactly_and_another_seed_differs(hospital: Hospital) -> None:
    config = make_settings("smoke", method="fine-tune")
    one, again = (trained(config, hospital, (1, 2))[0].state_dict() for _ in range(2))
    other = trained(config.replace(seed=1), hospital, (1, 2))[0].state_dict()
    assert all(torch.equal(one[k], again[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("method", ["ser-diff", "ser-diff-plus", "lesion-replay", "image-replay", "ewc"])
def test_a_round_is_the_same_to_the_last_bit_on_one_cpu_and_on_two(
    hospital: Hospital, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites.objectives.ewc, "_FISHER_BATCHES", 2)
    config = make_settings("smoke", method=method)
    results = []
    for cpus in (1, 2):
        use_cpus(cpus)
        student = new_student(config)
        run_round(student, Order(1, 1), hospital, lambda s: hospital, config)
        memory = consolidate(student, 1, hospital, config, get_method(method).hands_over_all)
        if method == "lesion-replay":  # of which so small a hospital hands over none
            memory = {LESION_MOMENTS: moments()}
        order = Order(2, 1, teachers=(copy.deepcopy(student).eval().requires_grad_(False),), memory=memory)
        losses = run_round(student, order, hospital, lambda s: hospital, config).losses
        results.append((student.state_dict(), losses))
    use_cpus(1)
    (one, of_one), (two, of_two) = results
    assert of_one == of_two
    assert len(of_one) == 2
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dims", [2, 3])
def test_training_learns_to_fit_its_own_cases(hospital: Hospital, dims: int, tmp_path: Path) -> None:
    """The loss falls well below that of the first steps: both networks train, in 2D and in 3D."""
    config = make_settings(
        "smoke",
        {
            "training.rounds": 1,
            "training.steps_per_stage": 40,
            "training.learning_rate": 4e-3,
            "data.spatial_dims": dims,
        },
        method="fine-tune",
    )
    losses: list[float] = []
    run_round(
        new_student(config),
        Order(stage=1, server_round=1),
        hospital,
        lambda s: hospital,
        config,
        lambda step, of, terms: losses.append(sum(terms().values())),
    )
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"method": "ser-diff"}, {"error-maps"}),
        ({"method": "ser-diff-plus"}, set()),
        ({"method": "ser-diff-plus", "method.shared_error_maps": "null"}, {"error-maps"}),
        ({"method": "ser-diff", "method.shared_error_maps": "none"}, set()),
        ({"method": "ewc"}, {"fisher"}),
        ({"method": "image-replay"}, {"synthetic-images"}),
        ({"method": "lesion-replay"}, {"lesion-moments"}),
        *(({"method": name}, set()) for name in ("fine-tune", "distill", "local", "rehearsal", "pooled")),
    ],
)
def test_a_stage_that_ended_leaves_what_its_method_keeps_and_the_student_as_it_was(
    hospital: Hospital, changes: dict[str, str], kept: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites.objectives.ewc, "_FISHER_BATCHES", 2)
    config = make_settings("smoke", changes)
    student = lively_student(config)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    memory = consolidate(student, 1, hospital, config, get_method(config.method.name).hands_over_all)
    assert set(memory) == kept
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_maps_of_a_stage_are_as_the_coordinator_expects_them(hospital: Hospital) -> None:
    config = make_settings("smoke", {"training.rounds": 1}, method="ser-diff")
    maps = consolidate(lively_student(config), 1, hospital, config, ["error-maps"])["error-maps"]["maps"]
    assert maps.dtype == torch.int8
    assert maps.shape == (config.replay.shared_maps, 3, 16, 24)
    assert maps.unique().numel() > 1
