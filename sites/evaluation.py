"""Score a student on a hospital's test cases: means leave as named scalars, per-case scores stay on its disk."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedserdiff.config import ExperimentConfig
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.releases import REGIONS
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.evaluation.segmentation import diagonal_mm, dice, hd95
from fedserdiff.seeding import generator


def predict_case(student: Student, cached: CachedCase, config: ExperimentConfig) -> Prediction:
    """Segment one case on the working grid, each field of shape (3, X, Y, Z).

    The student runs alone, with no teacher map, and with noise that depends on seed and case only: a case meets the
    same noise at every stage.
    """
    noise = generator(config.seed, "evaluation", cached.case.name)
    return predict_volume(student, cached.prepared.image, config.sampling_steps, noise)


def score_prediction(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
    """Score a prediction of one case at its scan's own resolution.

    Returns
    -------
    dict
        ``{coarse,refined}.{dice,hd95}.{tc,wt,et}``: Dice in [0, 1], HD95 in mm.
    """
    geometry = cached.prepared.geometry
    worst = diagonal_mm(geometry.shape, geometry.spacing_mm)
    truth = np.asarray(cached.prepared.truth, bool)
    scores = {}
    for name, volume in (("coarse", prediction.coarse), ("refined", prediction.refined)):
        masks = (geometry.to_scan(volume) >= 0.5).numpy()
        for region, mask, true in zip(REGIONS, masks, truth, strict=True):
            scores[f"{name}.dice.{region}"] = dice(mask, true)
            scores[f"{name}.hd95.{region}"] = hd95(mask, true, geometry.spacing_mm, worst)
    return scores


def score_case(student: Student, cached: CachedCase, config: ExperimentConfig) -> dict[str, float]:
    """Return `score_prediction` of `predict_case`."""
    return score_prediction(predict_case(student, cached, config), cached)


def evaluate(
    student: Student, cases: Sequence[CachedCase], config: ExperimentConfig, stage: int, table: Path
) -> dict[str, float]:
    """Return the mean over `cases` of every score, and add each case's scores to the hospital's own `table` (CSV)."""
    rows = [score_case(student, cached, config) for cached in cases]
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["stage", "case", *rows[0]])
        if new:
            writer.writeheader()
        for cached, row in zip(cases, rows, strict=True):
            writer.writerow({"stage": stage, "case": cached.case.name, **row})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
