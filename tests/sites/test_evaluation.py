"""Scoring a hospital's test cases: as many as there are, a few in memory."""

import csv
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sites.evaluation
from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Prediction, new_student
from fedserdiff.seeding import generator
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.evaluation import evaluate, score_prediction
from sites.hospital import Hospital

CONFIG = make_settings("smoke")
THREADS = 2  # that score

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


@pytest.mark.parametrize("cpus", [1, 2, 8])
def test_predictions_do_not_pile_up_before_scoring_that_is_slower(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int
) -> None:
    """As on a GPU, whose predictions come from the thread that asks for them, faster than two threads score."""
    cases = copies_of(hospital, 9)
    alive: list[weakref.ref[Prediction]] = []
    most = 0

    def predict(student: Any, cached: CachedCase, *rest: Any) -> Prediction:
        nonlocal most
        made = drawn(cached)
        alive.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in alive))
        return made

    def score(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
        time.sleep(0.05)
        return score_prediction(prediction, cached)

    monkeypatch.setattr(sites.evaluation, "predict_case", predict)
    monkeypatch.setattr(sites.evaluation, "score_prediction", score)
    use_cpus(cpus)
    means = evaluate(new_student(CONFIG), cases, CONFIG, 3, tmp_path / "scores.csv")

    assert len(alive) == len(cases)
    assert most <= THREADS + 1
    assert not any(one() for one in alive), "nor does any stay"
    expected = [score_prediction(drawn(cached), cached) for cached in cases]
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [cached.case.name for cached in cases]
    assert [{name: float(row[name]) for name in scores} for row, scores in zip(rows, expected, strict=True)] == expected
    assert means == {name: float(np.mean([scores[name] for scores in expected])) for name in expected[0]}


def test_an_evaluation_ends_at_the_case_that_cannot_be_scored(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def predict(student: Any, cached: CachedCase, *rest: Any) -> Prediction:
        asked.append(cached.case.name)
        return drawn(cached)

    def fails(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
        raise OSError("the disk is gone")

    monkeypatch.setattr(sites.evaluation, "predict_case", predict)
    monkeypatch.setattr(sites.evaluation, "score_prediction", fails)
    use_cpus(2)
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(new_student(CONFIG), copies_of(hospital, 40), CONFIG, 1, tmp_path / "scores.csv")
    assert len(asked) <= THREADS + 2, "the other cases would be predicted for nothing"
    assert not (tmp_path / "scores.csv").exists()


def resident(folder: Path) -> int:
    """The kB of files in a folder that this process holds in memory, as Linux tells it."""
    held, counted = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and not line.split()[0].endswith(":"):
            counted = str(folder) in line
        elif counted and line.startswith("Rss:"):
            held += int(line.split()[1])
    return held


def test_a_case_that_is_scored_takes_no_memory(hospital: Hospital, tmp_path: Path) -> None:
    """Its scans are read from mapped files, which count where a process's memory is limited."""
    (cached,) = hospital.test
    mapped = Path(cached.prepared.image.filename).parent  # type: ignore[attr-defined]  # a memmap's
    assert np.asarray(cached.prepared.truth).sum() > 0
    assert resident(mapped) > 0
    evaluate(new_student(CONFIG), hospital.test, CONFIG, 1, tmp_path / "scores.csv")
    assert resident(mapped) == 0
    assert np.asarray(cached.prepared.truth).sum() > 0, "what is wanted again is read again"
