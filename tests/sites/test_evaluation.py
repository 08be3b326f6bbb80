"""Scoring a hospital's test cases: all of them, with only a few in memory at a time."""

import csv
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from students import lively_student

import fedserdiff.segmenter
import sites.evaluation
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.scans import named_scan
from fedserdiff.diffusion.refiner import Prediction, new_student
from fedserdiff.evaluation.measures import MEASURES, measure
from fedserdiff.seeding import generator
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.evaluation import evaluate, predict_case, score_case, score_prediction
from sites.hospital import Hospital

CONFIG = make_settings("smoke")
ALL = 10**6  # cases that memory has room for

pytestmark = pytest.mark.usefixtures("one_cpu_afterwards")


def copies_of(hospital: Hospital, count: int) -> list[CachedCase]:
    """Test cases by names of their own, which do not come in alphabetical order."""
    (cached,) = hospital.test
    return [replace(cached, case=replace(cached.case, name=f"case-{7 * n % count:02}")) for n in range(count)]


def drawn(cached: CachedCase) -> Prediction:
    """What a student might say of a case; another case gets another mask."""
    coarse, error_map = torch.zeros(2, *cached.prepared.mask.shape)
    coarse[..., 5:7, 9:12, 6:8] = torch.rand(3, 2, 3, 2, generator=generator(1, cached.case.name))
    return Prediction(coarse, error_map)


def read(table: Path) -> dict[tuple[str, str], dict[str, float]]:
    """A table's scores by stage and case, in its order."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            scores = found.setdefault((row["stage"], row["case"]), {})
            scores |= {f"{row['mask']}.{name}.{row['region']}": float(row[name]) for name in MEASURES}
    return found


def room_for(count: int, cached: CachedCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an evaluation have memory for so many cases at a time."""
    voxels = max(np.prod(cached.prepared.image.shape[1:]), np.prod(cached.prepared.truth.shape[1:]))
    monkeypatch.setattr(sites.evaluation, "_MEMORY", count * int(voxels) * sites.evaluation._BYTES_A_VOXEL)


@pytest.mark.parametrize(
    ("device", "cpus", "room", "at_most"),
    [
        ("cpu", 1, ALL, 1),
        ("cpu", 2, ALL, 2),
        ("cpu", 4, ALL, 4),
        ("cpu", 8, 3, 3),
        ("cpu", 2, 0, 1),
        ("meta", 1, ALL, 1),  # stands for a GPU
        ("meta", 2, ALL, 3),
        ("meta", 4, ALL, 5),
        ("meta", 8, 3, 3),
    ],
)
def test_predictions_do_not_pile_up_before_scoring_that_is_slower(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, cpus: int, room: int, at_most: int
) -> None:
    """A GPU's predictions come from the thread that asks for them, faster than others score; one of them may wait."""
    cases = copies_of(hospital, 13)
    alive: list[weakref.ref[Prediction]] = []
    most = 0
    askers: set[int] = set()

    def predict(student: Any, cached: CachedCase, *rest: Any) -> Prediction:
        nonlocal most
        askers.add(threading.get_ident())
        made = drawn(cached)
        alive.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in alive))
        return made

    def score(prediction: Prediction, cached: CachedCase, *rest: Any) -> dict[str, float]:
        time.sleep(0.05)
        return score_prediction(prediction, cached, *rest)

    monkeypatch.setattr(sites.evaluation, "predict_case", predict)
    monkeypatch.setattr(sites.evaluation, "score_prediction", score)
    room_for(room, cases[0], monkeypatch)
    use_cpus(cpus)
    means = evaluate(new_student(CONFIG).to(device), cases, CONFIG, 3, tmp_path / "scores.csv")

    assert len(alive) == len(cases)
    assert min(at_most, 2) <= most <= at_most
    if device != "cpu":
        assert askers == {threading.get_ident()}
    assert not any(one() for one in alive), "nor does any stay"
    expected = [score_prediction(drawn(cached), cached) for cached in cases]
    assert read(tmp_path / "scores.csv") == {
        ("3", cached.case.name): scores for cached, scores in zip(cases, expected, strict=True)
    }
    leaving = [name for name in expected[0] if name.split(".")[1] in ("dice", "hd95")]
    assert means == {name: float(np.mean([scores[name] for scores in expected])) for name in leaving}


def test_predictions_and_scores_are_the_same_on_any_number_of_cpus(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, student = copies_of(hospital, 5), new_student(CONFIG)
    for weights in student.parameters():  # a new one's last layers are 0
        torch.nn.init.normal_(weights, std=0.2, generator=generator(2))
    seen: dict[str, bytes] = {}

    def predict(student: Any, cached: CachedCase, *rest: Any) -> Prediction:
        made = predict_case(student, cached, *rest)
        seen[cached.case.name] = made.coarse.numpy().tobytes() + made.error_map.numpy().tobytes()
        return made

    monkeypatch.setattr(sites.evaluation, "predict_case", predict)
    found = {}
    for cpus in (1, 2, 5):
        use_cpus(cpus)
        student.train()
        evaluate(student, cases, CONFIG, 1, tmp_path / f"{cpus}.csv")
        found[cpus] = (dict(seen), (tmp_path / f"{cpus}.csv").read_text())
        seen.clear()
    assert found[1] == found[2] == found[5]
    assert len(set(found[1][0].values())) == len(cases), "each case meets noise of its own"


def test_a_mask_that_refining_leaves_as_it_is_is_scored_once(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cached,) = hospital.test
    asked: list[int] = []

    def counted(mask: Any, *rest: Any) -> dict[str, float]:
        asked.append(int(mask.sum()))
        return measure(mask, *rest)

    monkeypatch.setattr(sites.evaluation, "measure", counted)
    regions = len(cached.case.convention.regions)
    coarse = torch.zeros(regions, *cached.prepared.mask.shape[1:])
    coarse[:, 4:8, 8:13, 5:9] = 0.9
    same = score_prediction(Prediction(coarse, torch.zeros_like(coarse)), cached)
    assert len(asked) == regions
    assert min(asked) > 0
    assert all(same[name] == same[name.replace("coarse", "refined")] for name in same)

    asked.clear()
    other = score_prediction(Prediction(coarse, -torch.ones_like(coarse)), cached)  # nothing is left of it
    assert sorted(asked)[:regions] == [0] * regions
    assert len(asked) == 2 * regions
    for region in cached.case.convention.regions:
        assert other[f"coarse.hd95.{region}"] == same[f"coarse.hd95.{region}"]
        assert other[f"refined.hd95.{region}"] > other[f"coarse.hd95.{region}"]


def test_an_evaluation_ends_at_the_case_that_cannot_be_scored(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predict(student: Any, cached: CachedCase, *rest: Any) -> Prediction:
        asked.append(cached.case.name)
        return drawn(cached)

    def fails(prediction: Prediction, cached: CachedCase, *rest: Any) -> dict[str, float]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(sites.evaluation, "predict_case", predict)
    monkeypatch.setattr(sites.evaluation, "score_prediction", fails)
    use_cpus(2)
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(new_student(CONFIG), copies_of(hospital, 40), CONFIG, 1, tmp_path / "scores.csv")
    assert len(asked) <= 4, "the other cases would be predicted for nothing"
    assert not (tmp_path / "scores.csv").exists()


def test_with_flips_a_hospital_scores_what_segment_would_write(hospital: Hospital) -> None:
    (cached,) = hospital.test
    student = lively_student(CONFIG)
    images = dict(zip(cached.case.convention.modalities, cached.case.images, strict=True))
    scan = named_scan(cached.case.name, images, cached.case.convention.modalities)
    geometry = cached.prepared.geometry
    box = (slice(None), *(slice(a, a + n) for a, n in zip(geometry.box_start, geometry.box_shape, strict=True)))
    found = []
    for flips in (False, True):
        config = CONFIG.replace({"scoring.flips": flips})
        predicted = geometry.to_scan(predict_case(student, cached, config).refined).numpy()
        segmented = Segmenter(student, config, cached.case.convention, {}, None, {}).segment(scan)
        assert np.allclose(segmented.probabilities[box], predicted, atol=1e-5)
        found.append(predicted)
    assert not np.allclose(*found, atol=1e-2)


def test_thresholds_that_are_given_hold_for_scores_and_for_what_segment_writes(hospital: Hospital) -> None:
    (cached,) = hospital.test
    student = lively_student(CONFIG)
    convention, geometry = cached.case.convention, cached.prepared.geometry
    images = dict(zip(convention.modalities, cached.case.images, strict=True))
    scan = named_scan(cached.case.name, images, convention.modalities)
    whole = {}
    for changes in ({}, {"scoring.least_et_ml": 1e6}, {"scoring.least_ml": (0.0, 1e6, 0.0)}):
        config = CONFIG.replace(changes)
        scores = score_case(student, cached, config)
        masks = convention.region_masks(Segmenter(student, config, convention, {}, None, {}).segment(scan).labels())
        written = {
            region: mask.sum() * geometry.voxel_ml for region, mask in zip(convention.regions, masks, strict=True)
        }
        for region, ml in written.items():
            assert scores[f"refined.predicted_ml.{region}"] == pytest.approx(ml)
        whole[next(iter(changes), "")] = written
    as_it_is, without_et, without_all = whole.values()
    assert min(as_it_is.values()) > 0
    assert without_et == {**as_it_is, "et": 0}
    assert set(without_all.values()) == {0}


def test_noise_is_drawn_where_the_student_is(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by `segment`, which has to draw the same."""
    made: list[tuple[object, ...]] = []

    def spy(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        made.append((*purpose, device))
        return generator(seed, *purpose)

    (cached,) = hospital.test
    student = new_student(CONFIG).to("meta")
    blank = Prediction(*[torch.zeros(3, *CONFIG.data.grid)] * 2)
    for module in (sites.evaluation, fedserdiff.segmenter):
        monkeypatch.setattr(module, "generator", spy)
        monkeypatch.setattr(module, "predict_volume", lambda *rest: blank)
    predict_case(student, cached, CONFIG)
    segmenter = Segmenter(student, CONFIG, cached.case.convention, {}, None, {})
    name, images = cached.case.name, dict(zip(cached.case.convention.modalities, cached.case.images, strict=True))
    segmenter.segment(named_scan(name, images, cached.case.convention.modalities))
    assert made == [("evaluation", name, torch.device("meta"))] * 2
