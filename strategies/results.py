"""The results of a run while it runs: rows of R, bytes, seconds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedserdiff.data.releases import BRATS_REGIONS
from fedserdiff.evaluation.continual import ContinualScores, continual_scores
from fedserdiff.evaluation.fairness import fairness
from strategies.evaluation_plan import EvaluationPlan
from strategies.retention import Retention

Scores = Mapping[str, Mapping[str, float]]
"""Scores by site, then by name such as ``refined.dice.tc``."""

METRICS = ("dice", "hd95")
"""Metrics of every run's R; settings may add more."""

COLUMNS = ("method", "seed", "stage", "site", "mask", "metric", "region", "value")
"""Columns of ``results.csv``."""


class Results:
    """Rows of R and their costs.

    Parameters
    ----------
    method, seed, sites, deployed, cases
        As in ``results.json``; `deployed` is, by site, the row of R whose student it uses at the end.
    evaluation : EvaluationPlan, optional
        The entries of R to measure; all by default.
    regions : sequence of str
        Regions whose scores make up R.
    metrics : sequence of str
        Metrics of R. Higher is better for all except ``hd95``.
    arrivals : sequence of int
        Stage in which each site arrives; empty if sites arrive one in each stage, or do not share one student.

    Attributes
    ----------
    overlap_allowed : bool
        Whether overlap was allowed, so that no search for scans that several sites have was made.
    differential_privacy : dict or None
        Privacy guarantee of the noise on weight changes, from `fedserdiff.privacy.gaussian.spent`.
    scored : str
        Patients that were scored: ``test`` or ``validation``.
    left_out : dict
        Number of each site's scans that an earlier site brought, whose patients the site leaves out.
    curves : list
        Points of validation during training, in a simulation: site, stage, round, step, and values with the names of
        `fedserdiff.report.curves`.
    retention : list of Retention
        Dice on an earlier site's painted lesions before and after a stage, by stage and earlier site.
    departures : list
        Sites that leave: site, the stage before which it leaves, the stages it trained in, the stage of its return.
    absences : list
        Rounds that continued without a failed site: stage, round, site, and the known reason.
    notes : list of str
        What the user should know about what sites handed over after their stage.
    interruptions : list of str
        Positions at which the run was resumed in a new process, and whether it moved from CPUs to a GPU or back.
        Repeated work counts once in the bytes and twice in the hospitals' ledgers.
    """

    def __init__(
        self,
        method: str,
        seed: int,
        sites: Sequence[str],
        deployed: Sequence[int],
        cases: Mapping[str, Mapping[str, int]],
        evaluation: EvaluationPlan | None = None,
        regions: Sequence[str] = BRATS_REGIONS,
        metrics: Sequence[str] = METRICS,
        arrivals: Sequence[int] = (),
    ) -> None:
        self.arrivals = list(arrivals)
        self.metrics = list(metrics)
        self.regions = list(regions)
        self.method = method
        self.seed = seed
        self.sites = list(sites)
        self.deployed = list(deployed)
        self.cases = {site: dict(count) for site, count in cases.items()}
        self.evaluation = evaluation
        self.rows: list[dict[str, Mapping[str, float]]] = []
        self.stages: list[str] = []
        self.losses: list[dict[str, float]] = []
        self.seconds: dict[str, float] = {}
        self.overlap_allowed = False
        self.scored = "test"
        self.differential_privacy: Mapping[str, Any] | None = None
        self.left_out: dict[str, int] = {}
        self.interruptions: list[str] = []
        self.curves: list[dict[str, str | int | float | None]] = []
        self.departures: list[dict[str, Any]] = []
        self.absences: list[dict[str, str | int]] = []
        self.retention: list[Retention] = []
        self.notes: list[str] = []
        self.bytes_out: Mapping[str, Mapping[str, int]] = {}
        self.bytes_in: Mapping[str, Mapping[str, int]] = {}

    def matrix(self, mask: str, metric: str, key: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return R of ``coarse`` or ``refined``, a metric, ``mean`` or a region: (stages + 1, sites).

        An entry is NaN until the site has scored that row's student, and stays NaN if the site does not have to.
        """
        names = [f"{mask}.{metric}.{region}" for region in (self.regions if key == "mean" else (key,))]
        columns = {site: column for column, site in enumerate(self.sites)}
        by_region = np.full((len(names), len(self.rows), len(self.sites)), np.nan)
        for number, row in enumerate(self.rows):
            for site, scores in row.items():
                by_region[:, number, columns[site]] = [scores[name] for name in names]
        mean: np.ndarray[tuple[int, int], np.dtype[np.float64]] = by_region.mean(0)
        return mean

    def missing(self, row: int) -> list[str]:
        """Return the sites that still have to score a row of R, in order of arrival."""
        wanted = self.sites if self.evaluation is None else self.evaluation.rows[row]
        return [site for site in wanted if site not in self.rows[row]]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of ``results.json``.

        Everything except ``seconds``, ``interruptions`` and speeds in ``curves`` depends only on config and data,
        unless a site was absent.
        """
        values: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "sites": self.sites,
            "stages": self.stages,
            "deployed": self.deployed,
            "arrivals": self.arrivals,
            "cases": self.cases,
            "scored": self.scored,
            "R": self._matrices("refined"),
            "R_coarse": self._matrices("coarse"),
        }
        keys = ("mean", *self.regions)
        scores = {m: {key: self._continual(m, key).to_dict() for key in keys} for m in self.metrics}
        for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
            values[name] = {m: {key: scores[m][key][name] for key in keys} for m in self.metrics}
        return values | {
            "fairness": {"dice": {key: self._fairness("dice", key) for key in keys}},
            "evaluation": self._evaluation(),
            "losses": self.losses,
            "curves": self.curves,
            "bytes_out": self._in_order(self.bytes_out),
            "bytes_in": self._in_order(self.bytes_in),
            "overlap": {"leaks": self.overlap_allowed, "left_out": self.left_out, "kept": {}, "cases": []},
            "differential_privacy": self.differential_privacy,
            "retention": self.retention,
            "departures": self.departures,
            "absences": self.absences,
            "notes": self.notes,
            "interruptions": self.interruptions,
            "seconds": self.seconds,
        }

    def _continual(self, metric: str, key: str) -> ContinualScores:
        """Return the stream's scores; there are none if sites do not share one student, or one still has to score."""
        alone = not self.arrivals and len(set(self.deployed)) > 1
        unfinished = self.arrivals and max(self.arrivals) >= len(self.rows)
        if alone or unfinished or any(self.missing(row) for row in range(len(self.rows))):
            return ContinualScores(None, None, None, None)
        return continual_scores(self.matrix("refined", metric, key), metric != "hd95", self.arrivals or None)

    def _fairness(self, metric: str, key: str) -> dict[str, str | float | None]:
        """Return the fairness over the sites that have scored the student they use at the end."""
        matrix = self.matrix("refined", metric, key)
        deployed = zip(self.sites, self.deployed, strict=True)
        final = {site: float(matrix[row, c]) for c, (site, row) in enumerate(deployed) if row < len(matrix)}
        return fairness(final).to_dict()

    def _evaluation(self) -> dict[str, Any]:
        """Return the whole rows of R, and the sites that score them."""
        plan = self.evaluation
        if plan is None:
            return {"every": 1, "sites": self.sites, "rows": list(range(len(self.rows)))}
        return {"every": plan.every, "sites": list(plan.sites), "rows": [r for r in plan.whole if r < len(self.rows)]}

    def _in_order(self, ledger: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        return {site: dict(sorted(ledger.get(site, {}).items())) for site in self.sites}

    def _matrices(self, mask: str) -> dict[str, dict[str, list[list[float | None]]]]:
        keys = ("mean", *self.regions)
        return {m: {key: _with_none(self.matrix(mask, m, key)) for key in keys} for m in self.metrics}

    def table(self) -> list[dict[str, Any]]:
        """Return one row per stage, site, mask, metric and region: the contents of ``results.csv``."""
        return [
            {
                "method": self.method, "seed": self.seed, "stage": stage, "site": site,
                "mask": mask, "metric": metric, "region": region, "value": scores[f"{mask}.{metric}.{region}"],
            }
            for stage, row in enumerate(self.rows)
            for site, scores in row.items()
            for mask in ("coarse", "refined")
            for metric in self.metrics
            for region in self.regions
        ]  # fmt: skip


def _with_none(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[list[float | None]]:
    """Return a matrix for JSON, with None instead of NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
