"""Validation while training: its scores, the student it returns, when it ends a round, and what stays unchanged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import MessageType
from guarded import assert_fault
from scene import NORTH, Scene
from students import lively_student

import sites.validation
from fedserdiff import wire
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError, RecordsError
from fedserdiff.experiments.random_hospital import random_hospital, random_orders
from fedserdiff.experiments.step_time import step_seconds
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.report.curves import CURVES_FILE, CurvesFile, read_curves
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.evaluation import evaluate
from sites.hospital import Hospital, hospital_of
from sites.objectives.pooled import PooledObjective
from sites.training import Order, Round, run_round

MakeScene = Callable[..., Scene]
Weights = dict[str, torch.Tensor]
SPLIT = {"data.validation_share": 0.34}


def smoke(**changes: Any) -> Settings:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    rounds = {"training.rounds": 1, "training.steps_per_stage": 6}
    return make_settings("smoke", {**SPLIT, **rounds, **named}, method="fine-tune")


def copied(student: torch.nn.Module) -> Weights:
    return {name: value.clone() for name, value in student.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


class Trained:
    """A round of a hospital whose patients are split in three: what it returned, and what each step left."""

    def __init__(self, hospital: Hospital, config: Settings) -> None:
        self.hospital = hospital_of(hospital.site, hospital.cases, config)
        self.student = lively_student(config)
        self.steps: dict[int, Weights] = {}
        self.points: list[tuple[int, Mapping[str, float]]] = []
        self.done: Round = run_round(
            self.student,
            Order(1, 1),
            replace(self.hospital, test=()),  # who reads a test patient finds none
            lambda site: self.hospital,
            config,
            lambda step, of, terms: self.steps.update({step: copied(self.student)}),
            lambda step, figures: self.points.append((step, figures)),
        )


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], None]:
    """Have the validations of a round find these Dice, one after another, in the refined mask alone."""

    def script(dice: Sequence[float]) -> None:
        left = iter(dice)
        monkeypatch.setattr(
            sites.validation, "dice_of_prediction", lambda *of: {"refined.dice.wt": next(left), "coarse.dice.wt": 0.9}
        )

    return script


def test_what_is_scored_is_what_the_round_would_return_on_validation_cases_as_a_run_scores_it(
    hospital: Hospital, tmp_path: Path
) -> None:
    """The average's Dice: of the last point those of the student that the round returned, case by case."""
    config = smoke(training__ema=0.9, training__validate_every=4)
    trained = Trained(hospital, config)
    assert [step for step, _ in trained.points] == [4, 6], "every fourth, and the last"
    expected = evaluate(trained.student, trained.hospital.validation, config, 1, tmp_path / "scores.csv")
    figures = trained.points[-1][1]
    dice = {name: value for name, value in figures.items() if ".dice." in name}
    assert dice == pytest.approx({name: value for name, value in expected.items() if ".dice." in name})
    assert len(dice) == 6
    assert max(dice.values()) > 0
    assert figures["steps_a_second"] > 0


def test_losses_of_a_point_are_means_since_the_one_before(hospital: Hospital) -> None:
    trained = Trained(hospital, smoke(training__validate_every=4))
    losses = [figures["loss.segmentation"] for _, figures in trained.points]
    assert trained.done.losses["segmentation"] == pytest.approx((4 * losses[0] + 2 * losses[1]) / 6)
    assert losses[0] != losses[1]


def test_to_validate_changes_no_weight(hospital: Hospital) -> None:
    watched, alone = (Trained(hospital, smoke(training__validate_every=every)) for every in (2, 0))
    assert same(copied(watched.student), copied(alone.student))
    assert watched.done.losses == alone.done.losses
    assert not alone.points
    assert watched.done.last is None


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_best_weights_are_those_of_the_curves_best_point_and_the_last_stay_beside(
    hospital: Hospital, scripted: Any, ema: float
) -> None:
    scripted([0.2, 0.6, 0.4, 0.6, 0.5, 0.1])
    best = Trained(hospital, smoke(training__validate_every=1, training__keep="best", training__ema=ema))
    scripted([0.9, 0.1, 0.1])
    first = Trained(
        hospital, smoke(training__validate_every=1, training__keep="best", training__ema=ema, training__patience=2)
    )
    assert best.done.last is not None
    if ema == 0:
        assert same(copied(best.student), best.steps[2]), "the first of two that are as good"
        assert same(best.done.last.student, best.steps[6])
        assert same(copied(first.student), first.steps[1])
    else:
        assert not any(same(copied(best.student), weights) for weights in best.steps.values())
        decays = (1 / 10, 2 / 11)
        expected = copied(lively_student(smoke()))
        for step, decay in enumerate(decays, 1):
            expected = {n: decay * v + (1 - decay) * best.steps[step][n] for n, v in expected.items()}
        for name, value in best.student.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_a_round_ends_after_so_many_validations_without_a_better_one(hospital: Hospital, scripted: Any) -> None:
    """A Dice that is as good is no better one. Without `keep` the round returns its last weights."""
    scripted([0.2, 0.1, 0.3, 0.3, 0.2, 0.9])
    trained = Trained(hospital, smoke(training__validate_every=1, training__patience=2))
    assert [step for step, _ in trained.points] == [1, 2, 3, 4, 5]
    assert max(trained.steps) == 5
    assert same(copied(trained.student), trained.steps[5])
    mean = np.mean([figures["loss.segmentation"] for _, figures in trained.points])
    assert trained.done.losses["segmentation"] == pytest.approx(mean), "of the steps that were taken"


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_an_adapter_is_averaged_and_kept_with_its_student(hospitals: list[Hospital], scripted: Any, ema: float) -> None:
    """The first of two validations is the best: its adapter comes back with its student, and the last stays beside."""
    named = {"training.validate_every": 1, "training.keep": "best", "training.ema": ema, "training.steps_per_stage": 2}
    config = make_settings(
        "smoke",
        {**SPLIT, "training.rounds": 1, "method.inversion_steps": 1, **named},
        method="ser-diff-plus",
        sites=tuple(one.site for one in hospitals),
    )
    own = hospital_of(hospitals[1].site, hospitals[1].cases, config)
    adapter = SiteAdapter(len(config.data.modalities))
    before, seen = copied(adapter), []
    teacher = lively_student(config).requires_grad_(False)
    scripted([0.5, 0.4])
    done = run_round(
        lively_student(config).train(),
        Order(2, 1, teachers=(teacher,), adapter=adapter),
        own,
        lambda site: own,
        config,
        lambda step, of, terms: seen.append(copied(adapter)),
    )
    first, last = seen
    assert done.adapter is adapter
    assert done.last is not None
    assert done.last.adapter is not None
    assert not same(first, before)
    assert not same(first, last)
    if ema == 0:
        assert same(copied(adapter), first)
        assert same(done.last.adapter, last)
    for name, value in adapter.state_dict().items():
        expected = 0.1 * before[name] + 0.9 * first[name] if ema else first[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_timing_steps_validates_nobody() -> None:
    """A plan's hospital of noise has no validation patients under any settings."""
    config = smoke(training__validate_every=1, training__keep="best", training__patience=1)
    config = config.replace(sites=(Site("north", "brats2021", "/nowhere"),))
    student = lively_student(config)
    (order, _) = random_orders(config, student)
    assert len(step_seconds(student, order, random_hospital(config), config, 1, 2)) == 1


def test_pooling_validates_on_every_hospitals_patients(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", SPLIT, method="pooled", sites=tuple(one.site for one in hospitals))
    split = {one.site: hospital_of(one.site, one.cases, config) for one in hospitals}
    cases = PooledObjective(config).validation_cases(split[hospitals[0].site], split.__getitem__)
    assert cases == [case for one in split.values() for case in one.validation]
    assert len(cases) == 2


@pytest.mark.parametrize("asked", [{"training.keep": "best"}, {"training.patience": 3}])
def test_what_goes_by_validations_needs_some(asked: dict[str, Any]) -> None:
    (name,) = asked
    with pytest.raises(ConfigError, match=rf"{name}: needs .*training\.validate_every.*data\.validation_share"):
        make_settings("smoke", asked)


def test_a_hospital_keeps_its_curves_and_its_reply_is_what_it_was(make_scene: MakeScene) -> None:
    """Through the hospital's own app: a round asked for again leaves its points once, and nothing new leaves."""
    scene = make_scene({"north": NORTH}, **{"data.validation_share": 0.2})
    wanted = {"training.validate_every": 1, "training.keep": "best", "training.ema": 0.5}
    plain = scene.order("north", MessageType.TRAIN)
    for _ in range(2):
        reply = scene.order("north", MessageType.TRAIN, **wanted)
    assert set(reply.content) == set(plain.content) == {wire.ARRAYS, wire.METRICS}
    assert set(reply.content[wire.METRICS]) == set(plain.content[wire.METRICS])
    assert reply.content[wire.ARRAYS].count_bytes() == plain.content[wire.ARRAYS].count_bytes()
    student = wire.weights_to_record(new_student(scene.config))
    assert admit(reply.content, reply_rules(MessageType.TRAIN, scene.config.replace(wanted), 0, student)) is not None
    folder = scene.records("north")
    points = read_curves(folder / CURVES_FILE)
    config = scene.config.training
    assert [(p.stage, p.server_round, p.step) for p in points] == [
        (1, 1, step + 1) for step in range(config.steps_per_stage // config.rounds)
    ]
    assert (folder / "last-student.pt").is_file()


def test_a_hospital_without_validation_patients_does_not_train(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    assert_fault(scene.order("north", MessageType.TRAIN, **{"training.validate_every": 2}), Fault.DATA)
    said = scene.log("north")
    assert "site north: training.validate_every: 2, but no patient is held out for it" in said


def test_curves_are_read_as_they_were_entered_and_a_round_that_is_repeated_replaces_its_own(tmp_path: Path) -> None:
    file = tmp_path / CURVES_FILE
    for stage, server_round, steps in ((1, 1, (2, 4)), (1, 2, (6,)), (1, 1, (2, 3)), (2, 1, (2,))):
        enter = CurvesFile(file, stage, server_round)
        for step in steps:
            enter(step, {"rate": 1 / 3, f"loss.{stage}": float("nan")})
    points = read_curves(file)
    assert [(p.stage, p.server_round, p.step) for p in points] == [(1, 1, 2), (1, 1, 3), (1, 2, 6), (2, 1, 2)]
    assert points[0].values["rate"] == 1 / 3
    row = {"site": "north", "stage": 2, "round": 1, "step": 2, "rate": 1 / 3, "loss.2": None}
    assert points[-1].row("north") == row
    assert read_curves(tmp_path / "none.csv") == []
    file.write_text("stage,round,step\n1,1,2\n")
    with pytest.raises(
        RecordsError, match=r"curves\.csv: is not a table with the columns stage, round, step, name, value"
    ):
        read_curves(file)
