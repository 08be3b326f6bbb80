"""Settings of the training loop, each computed in a second way: average of weights, clipping, decay, warm-up."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.hospital import Hospital, hospital_of
from sites.objectives.fine_tune import FineTuneObjective
from sites.step import Learners, rate_at
from sites.training import Order, run_round

CPU = torch.device("cpu")
NETWORKS = ("coarse", "refiner")


def smoke(**changes: Any) -> Settings:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return make_settings("smoke", {"data.validation_share": 0.34, **named}, method="fine-tune")


def flat(student: torch.nn.Module) -> NDArray[np.float64]:
    return torch.cat([weight.detach().flatten() for weight in student.parameters()]).double().numpy()


def one_step(config: Settings) -> Student:
    """Return a student after a first step on a drawn lesson, which is the same for all settings.

    Its gradients are there; a fused optimiser leaves those of fp16 unscaled.
    """
    student = lively_student(config).train()
    draws = torch.Generator().manual_seed(0)
    image = torch.randn(4, 4, 16, 24, generator=draws)
    truth = (torch.rand(4, 3, 16, 24, generator=draws) < 0.3).float()
    lesson = Lesson(image, truth, torch.Generator().manual_seed(1))
    Learners(student, FineTuneObjective(config), CPU).take({"segmentation": lesson}, 0, 1.0)()
    return student


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_round_returns_the_average_which_begins_with_what_the_wire_brought(
    hospital: Hospital, cpus: int, one_cpu_afterwards: None
) -> None:
    """By a recursion in NumPy over the weights that each step left. At the third step of six the decay is reached."""
    use_cpus(cpus)
    config = smoke(training__ema=0.2, training__steps_per_stage=12, training__validate_every=1)
    own = hospital_of(hospital.site, hospital.cases, config)
    student = lively_student(config)
    for server_round in (1, 2):
        sent = wire.weights_to_record(student)
        expected, steps = flat(student), []

        def left(step: int, of: int, terms: Any, student: Student = student, steps: Any = steps) -> None:
            steps.append(flat(student))  # before it is validated, with every step's own weights

        run_round(student, Order(1, server_round), own, lambda site: own, config, left)
        assert len(steps) == 6
        for number, weights in enumerate(steps):
            decay = min(0.2, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * weights
        np.testing.assert_allclose(flat(student), expected, rtol=1e-5, atol=1e-7)
        assert np.abs(flat(student) - steps[-1]).max() > 1e-5, "it is not the last weights"
        wire.load_weights(student, wire.changed(sent, wire.change_to_record(student, sent)))
        assert np.abs(flat(student) - expected).max() < 1e-3, "float16 of a change, not of weights"


def test_the_average_of_a_short_round_forgets_where_it_began() -> None:
    """With a decay of 0.999 and no warm-up 20 steps would leave 98 % of it."""
    left = math.prod(min(0.999, (1 + step) / (10 + step)) for step in range(20))
    assert left < 1e-6


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_networks_gradient_is_clipped_as_torch_clips_it(precision: str) -> None:
    plain, clipped = (one_step(smoke(network__precision=precision, training__clip_norm=norm)) for norm in (0.0, 0.01))
    for network in NETWORKS:
        theirs, ours = (list(one.get_submodule(network).parameters()) for one in (plain, clipped))
        assert torch.nn.utils.clip_grad_norm_(theirs, 0.01) > 0.02
        for weight, other in zip(theirs, ours, strict=True):
            torch.testing.assert_close(other.grad, weight.grad, rtol=1e-4, atol=1e-9)
    assert np.abs(flat(plain) - flat(clipped)).max() > 0


def test_a_gradient_within_the_norm_stays_as_it_is() -> None:
    plain, clipped = (one_step(smoke(training__clip_norm=norm)) for norm in (0.0, 1e6))
    assert np.array_equal(flat(plain), flat(clipped))


def test_decay_pulls_convolutions_to_zero_and_leaves_norms_and_biases() -> None:
    """A step shrinks a weight by rate × decay of itself, beside what Adam does (arXiv 1711.05101)."""
    plain, decayed = (one_step(smoke(training__weight_decay=decay)) for decay in (0.0, 0.1))
    before = lively_student(smoke()).state_dict()
    shrink = smoke().training.learning_rate * 0.1
    kinds = set()
    for (name, weight), other in zip(plain.named_parameters(), decayed.parameters(), strict=True):
        expected = weight - shrink * before[name] if weight.ndim > 1 else weight
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-7)
        kinds.add((name.split(".")[0], weight.ndim > 1))
    assert kinds == {(network, decays) for network in NETWORKS for decays in (True, False)}


def test_the_rate_rises_over_its_share_of_the_stage_and_then_falls_by_a_cosine() -> None:
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert [rate_at(step, 8) for step in (0, 2, 4)] == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5])


def test_a_stages_rounds_share_one_warm_up(hospital: Hospital) -> None:
    config = smoke(training__warmup=0.5, training__steps_per_stage=8, training__validate_every=1)
    own = hospital_of(hospital.site, hospital.cases, config)
    student, rates = lively_student(config), []
    for server_round in (1, 2):
        run_round(
            student,
            Order(1, server_round),
            own,
            lambda site: own,
            config,
            tell=lambda step, figures: rates.append(figures["rate"] / config.training.learning_rate),
        )
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, *((1 + math.cos(math.pi * n / 4)) / 2 for n in (1, 2, 3))])
