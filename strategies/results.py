"""A run's results as they accrue: rows of R, bytes, seconds."""

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
"""By site, then by name such as ``refined.dice.tc``."""

METRICS = ("dice", "hd95")
"""Of every run's R; there may be more, which the settings ask for."""

COLUMNS = ("method", "seed", "stage", "site", "mask", "metric", "region", "value")
"""Of ``results.csv``."""


class Results:
    """Rows of R and what they cost.

    Parameters
    ----------
    method, seed, sites, deployed, cases
        As they stand in ``results.json``; `deployed` is, by site, the row of R whose student it uses at the end.
    evaluation : EvaluationPlan, optional
        The entries of R to measure; all unless given.
    regions : sequence of str
        Whose scores make up R.
    metrics : sequence of str
        By which R is measured. All but ``hd95`` are better the higher they are.
    arrivals : sequence of int
        By site, the stage in which it arrives; empty if sites arrive one a stage, or do not share one student.

    Attributes
    ----------
    overlap_allowed : bool
        Whether nobody looked for scans that several sites hold.
    differential_privacy : dict or None
        What noise on changes of weights promises, as `fedserdiff.privacy.gaussian.spent`.
    scored : str
        Whose scores these are: ``test`` patients', or ``validation`` patients'.
    left_out : dict
        By site, how many of its scans an earlier site brought, so that it works without their patients.
    curves : list
        In a simulation whose hospitals validate as they train, each point of it: site, stage, round, step, and figures
        as `fedserdiff.report.curves` names them.
    retention : list of Retention
        By stage and earlier site, Dice on its lesions, painted, before the stage and after.
    departures : list
        Sites that leave: site, the stage as which begins, the stages that it trained in, the stage of its return.
    absences : list
        Rounds that went on without a site which failed: stage, round, site, and what is known of why.
    interruptions : list of str
        Where the run was when it had to be gone on with in a new process, and whether it went on on a GPU instead of
        CPUs or the reverse. What was repeated is counted once in the bytes, twice in the hospitals' ledgers.
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
        self.bytes_out: Mapping[str, Mapping[str, int]] = {}
        self.bytes_in: Mapping[str, Mapping[str, int]] = {}

    def matrix(self, mask: str, metric: str, key: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return R of ``coarse`` or ``refined``, a metric, ``mean`` or a region: (stages + 1, sites).

        A row lacks a site, NaN, until the site has come and scored that row's student, or for ever where it is not to.
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
        """Return the sites that are to score a row of R and have not yet, in order of arrival."""
        wanted = self.sites if self.evaluation is None else self.evaluation.rows[row]
        return [site for site in wanted if site not in self.rows[row]]

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of ``results.json``.

        All but ``seconds``, ``interruptions`` and speeds in ``curves`` follow from config and data alone, unless a site
        was absent.
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
            "interruptions": self.interruptions,
            "seconds": self.seconds,
        }

    def _continual(self, metric: str, key: str) -> ContinualScores:
        """Return the stream's scores; there are none where sites do not share one student, or one has yet to score."""
        alone = not self.arrivals and len(set(self.deployed)) > 1
        unfinished = self.arrivals and max(self.arrivals) >= len(self.rows)
        if alone or unfinished or any(self.missing(row) for row in range(len(self.rows))):
            return ContinualScores(None, None, None, None)
        return continual_scores(self.matrix("refined", metric, key), metric != "hd95", self.arrivals or None)

    def _fairness(self, metric: str, key: str) -> dict[str, str | float | None]:
        """Return how sites differ by the students that they use in the end, of those that have scored them."""
        matrix = self.matrix("refined", metric, key)
        deployed = zip(self.sites, self.deployed, strict=True)
        final = {site: float(matrix[row, c]) for c, (site, row) in enumerate(deployed) if row < len(matrix)}
        return fairness(final).to_dict()

    def _evaluation(self) -> dict[str, Any]:
        """Return which rows of R are whole, and the sites that score those."""
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
    """Return a matrix as JSON has it, which knows no NaN."""
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]
