"""The patients whose scores a hospital reports, and their rounded number."""

import csv
import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from flwr.app import MessageType
from guarded import assert_fault
from scene import NORTH, Scene
from students import lively_student

import sites.evaluation
from fedserdiff import wire
from fedserdiff.evaluation.measures import MEASURES
from fedserdiff.evaluation.postprocessing import Thresholds, gains
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.settings.experiment import Site
from fedserdiff.wire import Fault
from sites.evaluation import evaluate
from sites.hospital import open_hospital

MakeScene = Callable[..., Scene]
VALIDATED = {"data.validation_share": 0.2, "scoring.patients": "validation"}


def scored(scene: Scene, **changes: Any) -> set[str]:
    """The cases that the hospital enters in its table of scores when it evaluates."""
    (scene.records("north") / "scores.csv").unlink(missing_ok=True)
    reply = scene.order("north", MessageType.EVALUATE, **changes)
    assert reply.content.metric_records[wire.METRICS][wire.WEIGHT] == 5
    lines = (scene.records("north") / "scores.csv").read_text().splitlines()[1:]
    return {line.split(",")[1] for line in lines}


def names(cases: Any) -> set[str]:
    return {cached.case.name for cached in cases}


def test_the_setting_says_whose_scores_leave(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH}, **{"data.validation_share": 0.2})
    hospital = scene.open("north")
    assert len(hospital.validation) == len(hospital.test) == 1
    assert scored(scene) == names(hospital.test)
    assert scored(scene, **{"data.validation_share": 0.0}) == names(hospital.test), "who is tested on does not move"
    assert scored(scene, **VALIDATED) == names(hospital.validation)


def test_named_validation_cases_are_scored_and_no_other(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    (site,) = scene.config.sites
    chosen = ("BraTS2021_00003", "BraTS2021_00000")
    scene.config = scene.config.replace(
        {"scoring.patients": "validation"},
        sites=(Site(site.name, site.release, site.path, validation_cases=chosen),),
    )
    assert scored(scene) == set(chosen)
    assert not names(scene.open("north").test) & set(chosen)


def test_a_hospital_without_validation_patients_scores_nobody_in_their_place(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    wanted = {"scoring.patients": "validation"}
    for reply in (scene.query("north", **wanted), scene.order("north", MessageType.EVALUATE, **wanted)):
        assert_fault(reply, Fault.DATA)
    assert "site north: scoring.patients: validation, but no patient is held out for it" in scene.log("north")
    assert not (scene.records("north") / "scores.csv").exists()


def test_a_hospital_tells_how_many_it_trains_on_and_scores(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH}, **{"data.validation_share": 0.2})
    for changes, side in (({}, "test"), (VALIDATED, "validation")):
        reply = scene.query("north", **changes).content
        said = reply.metric_records[wire.SITE]
        assert dict(said) == {"site": 0, "training-cases": 5, f"{side}-cases": 5}
        for_it = scene.config.replace(changes)
        assert admit(reply, reply_rules(MessageType.QUERY, for_it, 0, None)) is not None


@pytest.mark.parametrize("count", [6, 21])
def test_the_hashes_of_all_three_sides_leave_and_their_number_is_that_of_rounded_counts(
    make_scene: MakeScene, count: int
) -> None:
    """Seven scans of each side count as five: 21 scans need more than 5 decoys beside 15."""
    cases = {f"BraTS2021_{number:05d}": number for number in range(count)}
    scene = make_scene({"north": cases})
    (site,) = scene.config.sites
    third = count // 3
    held_out = {"test_cases": tuple(cases)[:third], "validation_cases": tuple(cases)[third : 2 * third]}
    scene.config = scene.config.replace(sites=(Site(site.name, site.release, site.path, **held_out),))
    said = scene.told("north")
    assert {scene.hash_of(seed) for seed in cases.values()} <= set(said)
    assert len(said) == 25


def test_what_leaves_is_what_was_asked_for_and_the_mean_of_the_hospitals_own_table(make_scene: MakeScene) -> None:
    """Its table has every measure either way: the first wire message is what it is without the second's metrics."""
    scene = make_scene({"north": NORTH})
    told = {}
    for more in ((), ("nsd", "lesion_dice")):
        reply = scene.order("north", MessageType.EVALUATE, **{"scoring.extra_metrics": more})
        told[more] = dict(reply.content.metric_records[wire.METRICS])
        with (scene.records("north") / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["stage", "case", "mask", "region", *MEASURES]
        assert {(row["mask"], row["region"]) for row in rows} == set(product(("coarse", "refined"), ("tc", "wt", "et")))
        for name in ("dice", "hd95", *more):
            of = [float(row[name]) for row in rows if (row["mask"], row["region"]) == ("refined", "wt")]
            assert told[more][f"refined.{name}.wt"] == pytest.approx(sum(of) / len(of))
    plain, extended = told.values()
    assert {name.split(".")[1] for name in plain if name != wire.WEIGHT} == {"dice", "hd95"}
    assert {name: extended[name] for name in plain} == plain
    assert len(extended) == len(plain) + 2 * 2 * 3


CHOSEN = {"scoring.least_from": "validation", "data.validation_share": 0.4}


def test_thresholds_are_chosen_on_validation_patients_alone_and_leave_no_trace_but_the_scores(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene({"north": NORTH})
    seen: list[Any] = []

    def spy(masks: Any, truth: Any, *rest: Any) -> Any:
        seen.append(truth)
        return gains(masks, truth, *rest)

    monkeypatch.setattr(sites.evaluation, "gains", spy)
    monkeypatch.setattr(sites.evaluation, "choose", lambda of_cases: Thresholds((0.0, 9.9, 0.0), 0.0))  # nothing stays
    file = scene.records("north") / "thresholds.json"
    student = lively_student(scene.config)
    means = {}
    for changes in ({"data.validation_share": 0.4}, CHOSEN):
        config = scene.config.replace(changes)
        hospital = open_hospital(config.sites[0], config, scene.folder / "cache")
        table = scene.records("north") / "scores.csv"
        means[len(changes)] = evaluate(student, hospital.test, config, 2, table, validation=hospital.validation)
    assert len(hospital.validation) == 2
    truths = {cached.prepared.truth.tobytes() for cached in hospital.validation}
    assert {truth.astype("uint8").tobytes() for truth in seen} == truths
    assert len(seen) == 2 * len(hospital.validation), "for either mask"
    assert set(means[1]) == set(means[2])
    assert means[1]["refined.dice.wt"] > means[2]["refined.dice.wt"] == 0
    told = {"least_ml": {"tc": 0.0, "wt": 9.9, "et": 0.0}, "least_et_ml": 0.0}
    assert json.loads(file.read_text()) == {"2": dict.fromkeys(("coarse", "refined"), told)}


def test_without_validation_patients_no_threshold_is_chosen_on_others(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    assert_fault(scene.order("north", MessageType.EVALUATE, **{"scoring.least_from": "validation"}), Fault.DATA)
    said = "site north: scoring.least_from: validation, but no patient is held out for it: set data.validation_share"
    assert said in scene.log("north")


def test_a_hospital_answers_with_scores_by_thresholds_of_its_own(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH})
    reply = scene.order("north", MessageType.EVALUATE, **CHOSEN)
    rules = reply_rules(MessageType.EVALUATE, scene.config, 0, None)
    assert admit(reply.content, rules) is not None, "nothing more leaves"
    assert (scene.records("north") / "thresholds.json").exists()
