"""Score a student on a hospital's cases: means leave as named scalars, per-case scores stay on its disk."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.evaluation.segmentation import diagonal_mm, dice, hd95
from fedserdiff.files import write_whole
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import one_a_cpu

_MEMORY = 4 << 30  # of the cases that are predicted and scored at a time, in bytes (our choice)
_BYTES_A_VOXEL = 100  # of one of them (measured at 1 mm: 77 to 88)


def predict_case(
    student: Student, cached: CachedCase, config: Settings, adapter: SiteAdapter | None = None
) -> Prediction:
    """Segment one case on the working grid, each field of shape (3, X, Y, Z).

    The student runs alone, with no teacher map, and with noise that depends on seed and case only: a case meets the
    same noise at every stage. A hospital that has an adapter puts it in front.
    """
    noise = generator(config.seed, "evaluation", cached.case.name, device=student.device)
    return predict_volume(student, cached.prepared.image, config.scoring.sampling_steps, noise, adapter)


def score_prediction(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
    """Score a prediction of one case at its scan's own resolution, as the label map that it would be written as.

    Returns
    -------
    dict
        ``{coarse,refined}.{dice,hd95}.{region}``: Dice in [0, 1], HD95 in mm.
    """
    geometry = cached.prepared.geometry
    worst = diagonal_mm(geometry.shape, geometry.spacing_mm)
    scores: dict[str, float] = {}
    scored: dict[str, tuple[NDArray[np.bool_], float, float]] = {}
    for name, region, mask, true in _masks(prediction, cached):
        if region not in scored or not np.array_equal(mask, scored[region][0]):  # refining may change nothing
            scored[region] = (mask, dice(mask, true), hd95(mask, true, geometry.spacing_mm, worst))
        _, scores[f"{name}.dice.{region}"], scores[f"{name}.hd95.{region}"] = scored[region]
    return scores


def dice_of_prediction(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
    """Return the Dice of `score_prediction` alone, ``{coarse,refined}.dice.{region}``, which takes far less time."""
    return {f"{name}.dice.{region}": dice(mask, true) for name, region, mask, true in _masks(prediction, cached)}


def _masks(
    prediction: Prediction, cached: CachedCase
) -> Iterator[tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield each mask's name (``coarse`` or ``refined``) and region, the mask as it would be written, and the truth."""
    convention, geometry = cached.case.convention, cached.prepared.geometry
    truth = np.asarray(cached.prepared.truth, bool)
    for name, volume in (("coarse", prediction.coarse), ("refined", prediction.refined)):
        masks = convention.written(geometry.to_scored(volume).numpy())
        for region, mask, true in zip(convention.regions, masks, truth, strict=True):
            yield name, region, mask, true


def score_case(student: Student, cached: CachedCase, config: Settings) -> dict[str, float]:
    """Return `score_prediction` of `predict_case`."""
    return score_prediction(predict_case(student, cached, config), cached)


def evaluate(
    student: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    stage: int,
    table: Path,
    adapter: SiteAdapter | None = None,
) -> dict[str, float]:
    """Return the mean over `cases` of every score, and enter each case's scores in the hospital's own `table` (CSV).

    Scores of the same stage that stand there are replaced: an evaluation that is asked for again leaves one row a case.
    """

    rows = score_cases(student, cases, config, adapter, score_prediction)
    entries = [{"stage": stage, "case": cached.case.name, **row} for cached, row in zip(cases, rows, strict=True)]
    _enter(table, stage, entries)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def score_cases(
    student: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    adapter: SiteAdapter | None,
    score: Callable[[Prediction, CachedCase], dict[str, float]],
) -> list[dict[str, float]]:
    """Return what `score` says of the prediction of each case. The student is in evaluation mode afterwards."""

    def predicted(cached: CachedCase) -> tuple[Prediction, CachedCase]:
        return predict_case(student, cached, config, adapter), cached

    def scored(predicted: tuple[Prediction, CachedCase]) -> dict[str, float]:
        return score(*predicted)

    student.eval()  # it is not set to and fro by threads that predict with it side by side
    voxels = max(math.prod(config.data.grid), *(math.prod(c.prepared.geometry.scored_shape) for c in cases))
    most = max(1, _MEMORY // (_BYTES_A_VOXEL * voxels))
    if student.device.type == "cpu":
        rows = one_a_cpu(lambda cached: scored(predicted(cached)), cases, most)
    else:  # a GPU's work is issued from this thread, as scoring has room for what comes of it
        rows = one_a_cpu(scored, map(predicted, cases), most)
    return rows


def _enter(table: Path, stage: int, entries: Sequence[Mapping[str, object]]) -> None:
    """Rewrite the table with these rows as those of the stage; the file is at all times whole."""
    columns = list(entries[0])
    others: list[Mapping[str, object]] = []
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            whole = (row for row in csv.DictReader(file) if list(row) == columns and None not in row.values())
            others = [row for row in whole if row["stage"] != str(stage)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(sorted([*others, *entries], key=lambda row: int(str(row["stage"]))))
    write_whole(table, lambda opened: opened.write(text.getvalue().encode()))
