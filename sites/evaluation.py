"""Score a student on a hospital's cases: means leave as named scalars, per-case scores stay on its disk."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.evaluation.measures import measure
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.groups import Scoring
from fedserdiff.threads import one_a_cpu
from sites.score_table import enter

_MEMORY = 4 << 30  # of the cases that are predicted and scored at a time, in bytes (our choice)
_DEFAULT = Scoring()
_BYTES_A_VOXEL = 100  # of one of them (measured at 1 mm: 77 to 88)


def predict_case(
    student: Student, cached: CachedCase, config: Settings, adapter: SiteAdapter | None = None
) -> Prediction:
    """Segment one case on the working grid, each field of shape (3, X, Y, Z).

    The student runs alone, with no teacher map, and with noise that depends on seed and case only: a case meets the
    same noise at every stage. A hospital that has an adapter puts it in front.
    """
    noise = generator(config.seed, "evaluation", cached.case.name, device=student.device)
    return predict_volume(
        student, cached.prepared.image, config.scoring.sampling_steps, noise, adapter, config.scoring.flips
    )


def score_prediction(prediction: Prediction, cached: CachedCase, scoring: Scoring = _DEFAULT) -> dict[str, float]:
    """Score a prediction of one case at its scan's own resolution, as the label map that it would be written as.

    Returns
    -------
    dict
        ``{coarse,refined}.{measure}.{region}``, of every `measure`.
    """
    convention = cached.case.convention
    geometry = cached.prepared.geometry
    truth = np.asarray(cached.prepared.truth, bool)
    scores: dict[str, float] = {}
    scored: dict[str, tuple[NDArray[np.bool_], dict[str, float]]] = {}
    for name, volume in (("coarse", prediction.coarse), ("refined", prediction.refined)):
        masks = convention.written(geometry.to_scored(volume).numpy())
        for region, mask, true in zip(convention.regions, masks, truth, strict=True):
            if region not in scored or not np.array_equal(mask, scored[region][0]):  # refining may change nothing
                found = measure(mask, true, geometry.spacing_mm, geometry.shape, scoring.hd95 == "area")
                scored[region] = (mask, found)
            scores |= {f"{name}.{one}.{region}": value for one, value in scored[region][1].items()}
    return scores


def score_case(student: Student, cached: CachedCase, config: Settings) -> dict[str, float]:
    """Return `score_prediction` of `predict_case`."""
    return score_prediction(predict_case(student, cached, config), cached, config.scoring)


def evaluate(
    student: Student,
    cases: Sequence[CachedCase],
    config: Settings,
    stage: int,
    table: Path,
    adapter: SiteAdapter | None = None,
) -> dict[str, float]:
    """Return the mean over `cases` of what leaves, and enter all that each scored in the hospital's own `table` (CSV).

    Scores of the same stage that stand there are replaced: an evaluation that is asked for again leaves its rows once.
    """

    def predicted(cached: CachedCase) -> tuple[Prediction, CachedCase]:
        return predict_case(student, cached, config, adapter), cached

    def scored(predicted: tuple[Prediction, CachedCase]) -> dict[str, float]:
        return score_prediction(*predicted, config.scoring)

    student.eval()  # it is not set to and fro by threads that predict with it side by side
    voxels = max(math.prod(config.data.grid), *(math.prod(c.prepared.geometry.scored_shape) for c in cases))
    most = max(1, _MEMORY // (_BYTES_A_VOXEL * voxels))
    if student.device.type == "cpu":
        rows = one_a_cpu(lambda cached: scored(predicted(cached)), cases, most)
    else:  # a GPU's work is issued from this thread, as scoring has room for what comes of it
        rows = one_a_cpu(scored, map(predicted, cases), most)
    enter(table, stage, {cached.case.name: row for cached, row in zip(cases, rows, strict=True)})
    leaving = [name for name in rows[0] if name.split(".")[1] in config.scoring.metrics]
    return {name: float(np.mean([row[name] for row in rows])) for name in leaving}
