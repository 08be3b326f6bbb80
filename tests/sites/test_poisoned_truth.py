"""Ground truth cannot reach inference: if a hospital has truth when it predicts, poisoning it changes nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch

import sites.evaluation
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.preprocess import CaseArrays
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, new_student
from fedserdiff.settings.sources import make_settings
from sites.evaluation import score_case
from sites.hospital import Hospital, open_hospital
from sites.objectives.ser_diff import SerDiffObjective
from sites.training_set import TrainingSet


def poisoned(cached: CachedCase) -> CachedCase:
    """The same scan with every truth voxel inverted."""
    prepared = cached.prepared
    image, mask, truth = prepared.image, 1 - prepared.mask, 1 - prepared.truth
    inverted = CaseArrays(image, mask, truth, prepared.geometry, prepared.voxel_hash)
    return dataclasses.replace(cached, prepared=inverted)


def test_scoring_predicts_the_same_whatever_the_truth(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_settings("smoke")
    seen: list[Prediction] = []

    def watched(*arguments: object) -> Prediction:
        seen.append(predict_volume(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(sites.evaluation, "predict_volume", watched)
    student, cached = new_student(config), hospital.test[0]
    scores = [score_case(student, case, config) for case in (cached, poisoned(cached))]
    assert scores[0] != scores[1], "the truth does reach the score"
    assert torch.equal(seen[0].coarse, seen[1].coarse)
    assert torch.equal(seen[0].error_map, seen[1].error_map)


def test_the_teachers_conditional_maps_are_the_same_whatever_the_truth(hospital: Hospital) -> None:
    config = make_settings("smoke")
    teacher = new_student(config.replace(seed=3)).eval()
    maps = []
    for cases in (hospital.training, tuple(poisoned(c) for c in hospital.training)):
        objective = SerDiffObjective(config, teacher)
        objective.begin(TrainingSet(cases, config, torch.device("cpu")), "site-1", stage=2, server_round=1)
        maps.append(objective._maps)
    assert torch.equal(*maps)


def test_a_path_is_all_that_opening_a_hospital_needs(hospital: Hospital, tmp_path: Path) -> None:
    again = open_hospital(hospital.site, make_settings("smoke", seed=5), tmp_path)
    assert [c.case.name for c in again.test] == [c.case.name for c in hospital.test]
