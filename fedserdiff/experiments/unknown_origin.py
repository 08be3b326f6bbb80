"""Scores on scans of unknown origin, for methods whose hospitals keep an adapter or weights for themselves.

Each scan is segmented with what the hospital keeps whose training scans it resembles most. If that hospital is not
clear, the masks of the two nearest are averaged and the scan is marked. Only a simulation can do this: in a deployment
adapters and personal weights stay in their hospitals.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from fedserdiff.comparison.records import UNKNOWN_ORIGIN
from fedserdiff.data.cache import CachedCase
from fedserdiff.device import use_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.evaluation.measures import MEASURES
from fedserdiff.evaluation.recognition import Floats, Recogniser, Recognition, appearance
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.final_student import final_student
from fedserdiff.experiments.opened_federation import Federation
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import one_a_cpu, use_cpus
from sites.evaluation import judge_each, predict_case, score_prediction
from sites.hospital import Hospital
from strategies.evaluation_plan import evaluated_sites
from strategies.run_directory import RunDirectory

_MOST_SCANS = 100  # of a hospital, whose appearance is learnt (our choice)
_STUDENTS = 4  # held in memory at a time
_COLUMNS = ("site", "case", "nearest", "second", "probability", "averaged", "region", *MEASURES)


@dataclass(frozen=True)
class _Scan:
    """A scored case, the site that it is from, and those that it seems to be from."""

    site: str
    cached: CachedCase
    seems: Recognition


def depends_on_origin(federation: Federation, departed: Sequence[str]) -> bool:
    """Return whether a run's scores at the end depend on the origin of scans, and whether hospitals can be recognised.

    That takes a method whose hospitals keep something for themselves, several hospitals that have not `departed`, and
    more training scans than hospitals.
    """
    there = _there(federation, departed)
    scans = sum(len(hospital.training) for hospital in there)
    return get_method(federation.config.method.name).knows_origin and 1 < len(there) < scans


def score_unknown_origin(federation: Federation, run: RunDirectory, departed: Sequence[str]) -> dict[str, Any]:
    """Score a finished run's scored cases as if nobody knew their hospital; write all scores to a CSV file.

    Size thresholds that hospitals learn on validation patients are not used.

    Parameters
    ----------
    federation : Federation
    run : RunDirectory
        With the final student and the hospitals' folders. It gets the file ``unknown-origin.csv``: one row for each
        case and region, of the refined mask.
    departed : sequence of str
        Sites that have left: their scans are not scored, and what they keep is not used.

    Returns
    -------
    dict
        By site: ``dice``, the mean refined Dice over regions and cases, a fraction; ``recognised``, the number of cases
        that resemble the site most; ``averaged``, the number of cases whose hospital is not clear.
    """
    config = federation.config
    use_cpus(config.machine.cpus_per_site)
    device = use_device(config.machine)

    @lru_cache(maxsize=_STUDENTS)
    def of_hospital(site: str) -> tuple[Student, SiteAdapter | None]:
        return final_student(run, config, site, device)

    def predict(scan: _Scan) -> Prediction:
        used = (scan.seems.nearest,) if scan.seems.sure else (scan.seems.nearest, scan.seems.second)
        return _mean([predict_case(student, scan.cached, config, kept) for student, kept in map(of_hospital, used)])

    def judged(prediction: Prediction, cached: CachedCase) -> dict[str, float]:
        return score_prediction(prediction, cached, config.scoring)

    scans = _recognised(_there(federation, departed), config)
    work = [(scan.cached, partial(predict, scan)) for scan in scans]
    scored = list(zip(scans, judge_each(work, config, device, judged), strict=True))
    names = [site.name for site in config.sites]
    scored.sort(key=lambda one: (names.index(one[0].site), one[0].cached.case.name))
    _write(run, scored, config.data.regions)
    told: dict[str, dict[str, float]] = {"dice": {}, "recognised": {}, "averaged": {}}
    for name in dict.fromkeys(scan.site for scan, _ in scored):
        own = [(scan.seems, score) for scan, score in scored if scan.site == name]
        told["dice"][name] = float(np.mean([mean_over_regions(score, "refined", "dice") for _, score in own]))
        told["recognised"][name] = sum(seems.nearest == name for seems, _ in own)
        told["averaged"][name] = sum(not seems.sure for seems, _ in own)
    return told


def _there(federation: Federation, departed: Sequence[str]) -> list[Hospital]:
    return [hospital for hospital in federation.hospitals if hospital.site.name not in departed]


def _recognised(hospitals: Sequence[Hospital], config: Settings) -> list[_Scan]:
    """Return the hospitals' scored cases, in an order that needs few students at a time."""
    recogniser = Recogniser({h.site.name: _appearances(h.training[:_MOST_SCANS]) for h in hospitals})
    sample = evaluated_sites(config)
    scored = [(h.site.name, cached) for h in hospitals if h.site.name in sample for cached in h.scored(config)]
    scans = [
        _Scan(site, cached, recogniser.recognise(seen))
        for (site, cached), seen in zip(scored, _appearances([cached for _, cached in scored]), strict=True)
    ]
    return sorted(scans, key=lambda scan: (scan.seems.nearest, scan.seems.second))


def _appearances(cases: Sequence[CachedCase]) -> list[Floats]:
    return one_a_cpu(lambda cached: appearance(cached.prepared.image), cases, len(cases))


def _mean(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean of predictions' coarse and refined masks; a single prediction as it is."""
    if len(predictions) == 1:
        return predictions[0]
    coarse, refined = (
        torch.stack([getattr(one, mask) for one in predictions]).mean(0) for mask in ("coarse", "refined")
    )
    return Prediction(coarse, refined - coarse)


def _write(run: RunDirectory, scored: Sequence[tuple[_Scan, dict[str, float]]], regions: Sequence[str]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for scan, score in scored:
        seems = scan.seems
        about = (scan.site, scan.cached.case.name, seems.nearest, seems.second, seems.probability, not seems.sure)
        writer.writerows([*about, region, *(score[f"refined.{m}.{region}"] for m in MEASURES)] for region in regions)
    run.write_file(UNKNOWN_ORIGIN, text.getvalue().encode())
