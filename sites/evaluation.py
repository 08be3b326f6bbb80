"""Scoring of a student on a hospital's cases: means leave as named scalars, per-case scores stay on its disk."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.evaluation.measures import measure
from fedserdiff.evaluation.postprocessing import Gains, Thresholds, choose, gains, given_thresholds, to_dict
from fedserdiff.evaluation.segmentation import dice
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.scoring import Scoring
from fedserdiff.threads import one_a_cpu
from sites.score_table import THRESHOLDS_FILE, enter, enter_thresholds

T = TypeVar("T")
_MEMORY = 4 << 30  # bytes for cases predicted and scored at a time (our choice)
_DEFAULT = Scoring()
_BYTES_A_VOXEL = 100  # of one case (measured at 1 mm: 77 to 88)
_MORE_BY_AREA = 100  # additional bytes if HD95 is over surface area (measured: 101)


def predict_case(
    student: Student, cached: CachedCase, config: Settings, adapter: SiteAdapter | None = None
) -> Prediction:
    """Segment one case on the working grid, each field of shape (3, X, Y, Z).

    The student runs without a teacher map. Its noise depends only on seed and case, so a case gets the same noise at
    every stage. If the hospital has an adapter, images pass through it first.
    """
    noise = generator(config.seed, "evaluation", cached.case.name, device=student.device)
    how = config.scoring
    return predict_volume(student, cached.prepared.image, how.sampling_steps, noise, adapter, how.flips, how.overlap)


def score_prediction(
    prediction: Prediction,
    cached: CachedCase,
    scoring: Scoring = _DEFAULT,
    thresholds: Mapping[str, Thresholds] | None = None,
) -> dict[str, float]:
    """Score a prediction of one case at the scan's own resolution, converted to the label map that would be written.

    Parameters
    ----------
    prediction : Prediction
    cached : CachedCase
    scoring : fedserdiff.settings.scoring.Scoring
    thresholds : mapping
        Size thresholds by mask (``coarse``, ``refined``); those of `scoring` by default.

    Returns
    -------
    dict
        Scores named ``{coarse,refined}.{measure}.{region}``, for every metric of `measure`.
    """
    geometry, convention = cached.prepared.geometry, cached.case.convention
    truth = np.asarray(cached.prepared.truth, bool)
    thresholds = _given(scoring) if thresholds is None else thresholds
    scores: dict[str, float] = {}
    scored: dict[str, tuple[NDArray[np.bool_], dict[str, float]]] = {}
    for name, masks in _written(prediction, cached).items():
        if name in thresholds:
            masks = thresholds[name].apply(masks, convention, geometry.voxel_ml)
        for region, mask, true in zip(convention.regions, masks, truth, strict=True):
            if region not in scored or not np.array_equal(mask, scored[region][0]):  # refinement may change nothing
                found = measure(mask, true, geometry.spacing_mm, geometry.shape, scoring.hd95 == "area")
                scored[region] = (mask, found)
            scores |= {f"{name}.{one}.{region}": value for one, value in scored[region][1].items()}
    return scores


def dice_of_prediction(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
    """Return only the Dice of masks, without post-processing: ``{coarse,refined}.dice.{region}``."""
    truth, regions = np.asarray(cached.prepared.truth, bool), cached.case.convention.regions
    return {
        f"{name}.dice.{region}": dice(mask, true)
        for name, masks in _written(prediction, cached).items()
        for region, mask, true in zip(regions, masks, truth, strict=True)
    }


def score_case(student: Student, cached: CachedCase, config: Settings) -> dict[str, float]:
    """Segment and score one case, with `predict_case` and `score_prediction`."""
    return score_prediction(predict_case(student, cached, config), cached, config.scoring)


def _written(prediction: Prediction, cached: CachedCase) -> dict[str, NDArray[np.bool_]]:
    """Return both masks as region masks of label maps, within the box of brain and labels."""
    volumes = {"coarse": prediction.coarse, "refined": prediction.refined}
    to_scored, written = cached.prepared.geometry.to_scored, cached.case.convention.written
    return {name: written(to_scored(volume).numpy()) for name, volume in volumes.items()}


def _given(scoring: Scoring) -> dict[str, Thresholds]:
    """Return the thresholds from the settings for both masks, or none if the settings have none."""
    thresholds = given_thresholds(scoring)
    return {} if thresholds is None else dict.fromkeys(("coarse", "refined"), thresholds)


def _chosen(
    student: Student, validation: Sequence[CachedCase], config: Settings, adapter: SiteAdapter | None
) -> dict[str, Thresholds]:
    """Return, for each mask, the thresholds with the best score on the hospital's validation patients."""

    def gained(prediction: Prediction, cached: CachedCase) -> dict[str, Gains]:
        truth, voxel_ml = np.asarray(cached.prepared.truth, bool), cached.prepared.geometry.voxel_ml
        masks = _written(prediction, cached)
        return {name: gains(own, truth, cached.case.convention, voxel_ml) for name, own in masks.items()}

    by_case = of_each_case(student, validation, config, adapter, gained)
    return {name: choose([case[name] for case in by_case]) for name in by_case[0]}


def evaluate(
    student: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    stage: int,
    table: Path,
    adapter: SiteAdapter | None = None,
    validation: Sequence[CachedCase] = (),
) -> dict[str, float]:
    """Return the means over `cases` that leave, and write all scores of each case to the hospital's own `table` (CSV).

    Existing scores of the same stage are replaced, so a repeated evaluation appears only once. If the config says so,
    thresholds are chosen on `validation` cases and stored beside the table.
    """
    thresholds = None
    if config.scoring.least_from == "validation":
        thresholds = _chosen(student, validation, config, adapter)
        convention = validation[0].case.convention
        chosen = {name: to_dict(one, convention) for name, one in thresholds.items()}
        enter_thresholds(table.with_name(THRESHOLDS_FILE), stage, chosen)

    def scored(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
        return score_prediction(prediction, cached, config.scoring, thresholds)

    rows = of_each_case(student, cases, config, adapter, scored)
    enter(table, stage, {cached.case.name: row for cached, row in zip(cases, rows, strict=True)})
    leaving = [name for name in rows[0] if name.split(".")[1] in config.scoring.metrics]
    return {name: float(np.mean([row[name] for row in rows])) for name in leaving}


def of_each_case(
    student: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    adapter: SiteAdapter | None,
    judged: Callable[[Prediction, CachedCase], T],
) -> list[T]:
    """Apply `judged` to the student's prediction of each case, as in `judge_each`.

    The student is in evaluation mode afterwards.
    """
    student.eval()  # set once here, so that parallel threads need not switch its mode
    work = [(cached, partial(predict_case, student, cached, config, adapter)) for cached in cases]
    return judge_each(work, config, student.device, judged)


def judge_each(
    work: Sequence[tuple[CachedCase, Callable[[], Prediction]]],
    config: Settings,
    device: torch.device,
    judged: Callable[[Prediction, CachedCase], T],
) -> list[T]:
    """Apply `judged` to each case's prediction, in order, on all CPUs, with as many cases at a time as memory allows.

    Parameters
    ----------
    work : sequence of (CachedCase, function)
        Cases, each with a function that predicts it on `device`.
    config : Settings
    device : torch.device
    judged : function
    """

    def predicted(one: tuple[CachedCase, Callable[[], Prediction]]) -> tuple[Prediction, CachedCase]:
        return one[1](), one[0]

    def both(predicted: tuple[Prediction, CachedCase]) -> T:
        return judged(*predicted)

    largest = max(math.prod(cached.prepared.geometry.scored_shape) for cached, _ in work)
    voxels = max(math.prod(config.data.grid), largest)
    each = _BYTES_A_VOXEL + (_MORE_BY_AREA if config.scoring.hd95 == "area" else 0)
    most = max(1, _MEMORY // (each * voxels))
    if device.type == "cpu":
        return one_a_cpu(lambda one: both(predicted(one)), work, most)
    # this thread issues the GPU's work as fast as memory for the results allows
    return one_a_cpu(both, map(predicted, work), most)
