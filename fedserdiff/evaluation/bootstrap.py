"""95 % intervals over seeds and patients: a hierarchical bootstrap, paired across methods.

A replicate draws as many seeds as there are, with replacement. For each of them, site by site, it draws as many
patients as the site has; a drawn patient brings all its cases. Every method is scored on the same draws, so the
difference of two estimates has an interval without the variation that is common to both. Seeds and patients are drawn
independently (crossed): Owen, doi 10.1214/07-AOAS122. Few seeds understate their variance: n seeds show (n − 1)/n of
it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedserdiff.evaluation.continual import stacked_scores

REPLICATES = 2000
"""Number of bootstrap replicates behind an interval, unless another is asked for."""

STATISTICS = ("final", "worst", "spread", "bwt", "fwt", "forgetting")
_OF_STREAM = STATISTICS[3:]


@dataclass(frozen=True, eq=False)
class StreamScores:
    """One run's score of every scored case after every stage, in the metric's units.

    Attributes
    ----------
    values : mapping of str to array of float64, shape (rows, cases)
        By site, in the order of arrival. Row 0 is the untrained student, row i the one after stage i.
    patients : mapping of str to sequence of str
        By site, the patient of each case; a patient may have several cases.
    deployed : mapping of str to int
        By site, the row in [0, rows) of the student in use at the end: the last, unless sites keep their own models.
    higher_is_better : bool
        False for distances such as HD95, as in `stacked_scores`.
    arrivals : mapping of str to int
        By site, the stage in which it arrives; empty if sites arrive one a stage, or do not share one student.
    """

    values: Mapping[str, NDArray[np.float64]]
    patients: Mapping[str, Sequence[str]]
    deployed: Mapping[str, int]
    higher_is_better: bool
    arrivals: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values or not self.values.keys() == self.patients.keys() == self.deployed.keys():
            raise ValueError("values, patients and deployed must have the same sites, at least one")
        rows = len(next(iter(self.values.values())))
        for site, values in self.values.items():
            if values.shape != (rows, len(self.patients[site])):
                raise ValueError(f"{site}: {values.shape} scores, {rows} rows, {len(self.patients[site])} cases")
            if not 0 <= self.deployed[site] < rows:
                raise ValueError(f"{site}: deployed row {self.deployed[site]} of {rows}")


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % percentile interval, in the value's units; the ends are None if the data give none."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Return the value and the ends by name."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """Sample of an estimate: the number of seeds, and of scored patients over all sites and seeds."""

    seeds: int
    patients: int


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic on the original cases and on every replicate.

    Estimates from one `Resampling` are paired, so they can be combined replicate by replicate.

    Attributes
    ----------
    value : float
        Mean over the seeds.
    replicates : array of float64, shape (replicates,)
        Mean over the drawn seeds; NaN if the data do not show the variation.
    sample : Sample
        The sample that was drawn from.
    """

    value: float
    replicates: NDArray[np.float64]
    sample: Sample

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Return the paired difference; both must come from one `Resampling`, or from two built in the same way."""
        return Estimate(self.value - other.value, self.replicates - other.replicates, self.sample)

    def interval(self) -> Interval:
        """Return the value with the 2.5 and 97.5 percentiles of the replicates, or None if these are NaN.

        Forgetting may lie below its interval: its maximum over stages grows with noise, and resampling adds noise.
        """
        if np.isnan(self.replicates).any():
            return Interval(self.value, None, None)
        low, high = np.percentile(self.replicates, (2.5, 97.5))
        return Interval(self.value, float(low), float(high))


class Resampling:
    """The draws of seeds and patients on which every method is scored; they do not depend on the order of the input.

    A site with one patient does not show how much its patients differ: replicates are then NaN, unless every seed has
    its own patients.

    Parameters
    ----------
    patients : mapping of int to mapping of str to sequence of str
        By seed and site, the patient of each case, as in `StreamScores`.
    shared_patients : bool
        Whether all seeds have the same patients (real data). A replicate's seeds then share one draw, because hard
        cases do not average out over seeds. Otherwise (phantoms) each drawn seed has its own draw, even if drawn twice.
    replicates, rng_seed : int
        Number of replicates (at least 1) and seed of their draws (at least 0).

    Raises
    ------
    ValueError
        If there is no seed, a site has no patients, seeds have different sites, or patients differ between seeds
        despite `shared_patients`.
    """

    def __init__(
        self,
        patients: Mapping[int, Mapping[str, Sequence[str]]],
        *,
        shared_patients: bool,
        replicates: int = REPLICATES,
        rng_seed: int = 0,
    ) -> None:
        if not patients:
            raise ValueError("no seed to draw from")
        self._patients = {s: {site: tuple(p) for site, p in sorted(patients[s].items())} for s in sorted(patients)}
        first = min(patients)
        everywhere = all(len(set(of_case)) > 1 for sites in patients.values() for of_case in sites.values())
        self._varies = everywhere or (len(patients) > 1 and not shared_patients)
        of_seeds = [sum(len(set(of_case)) for of_case in sites.values()) for sites in self._patients.values()]
        self._sample = Sample(len(of_seeds), of_seeds[0] if shared_patients else sum(of_seeds))
        rng = np.random.default_rng(rng_seed)
        # drawn seeds of each replicate
        self._seeds = rng.choice(list(self._patients), (replicates, len(self._patients)))
        # By seed and site: how often each draw contains each case, after a first row of ones for the original cases.
        self._weights: dict[int, dict[str, NDArray[np.float64]]] = {}
        shared: dict[str, NDArray[np.float64]] = {}
        for seed, sites in self._patients.items():
            if sites.keys() != self._patients[first].keys():
                raise ValueError(f"seed {seed}: other sites than seed {first}")
            if shared_patients:
                self._check(seed, self._patients[first], f"than seed {first}")
            of_replicate = np.nonzero(self._seeds == seed)[0]
            self._weights[seed] = {}
            for site, of_case in sites.items():
                if not of_case:
                    raise ValueError(f"seed {seed}, {site}: no patients to draw from")
                if shared_patients and site not in shared:
                    shared[site] = _draw(rng, of_case, replicates)
                drawn = shared[site][of_replicate] if shared_patients else _draw(rng, of_case, len(of_replicate))
                self._weights[seed][site] = np.vstack([np.ones(len(of_case)), drawn])

    def estimates(self, runs: Mapping[int, StreamScores]) -> dict[str, Estimate | None]:
        """Return all `STATISTICS` of a method from its run of each seed.

        ``final`` is the mean over sites of the deployed student's score. ``worst`` is the score of the worst site, and
        ``spread`` the standard deviation over sites (population formula). Both use each site's mean over the drawn
        seeds and patients, so the worst site may differ between replicates. The others come from `stacked_scores`; they
        are None if a seed's run has none, because sites do not share one student or all arrive at once.

        Raises
        ------
        ValueError
            If the runs have other seeds, sites or patients.
        """
        if runs.keys() != self._patients.keys():
            raise ValueError(f"runs of seeds {sorted(runs)}, draws of seeds {list(self._patients)}")
        sites, streams = {}, {}
        for seed, run in runs.items():
            self._check(seed, run.patients, "than the run")
            sites[seed], streams[seed] = _score(run, self._weights[seed])
        by_site = self._over_seeds(sites)
        worst = by_site.min(1) if next(iter(runs.values())).higher_is_better else by_site.max(1)
        found: dict[str, Estimate | None] = {
            "final": self._estimate(by_site.mean(1)),
            "worst": self._estimate(worst),
            "spread": self._estimate(by_site.std(1)),
        }
        for name in _OF_STREAM:
            of_seeds = {seed: stream[name] for seed, stream in streams.items() if stream is not None}
            found[name] = self._estimate(self._over_seeds(of_seeds)) if len(of_seeds) == len(runs) else None
        return found

    def _over_seeds(self, scores: Mapping[int, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the mean over seeds of scores of shape (draws of the seed, …) each: (1 + replicates, …).

        The first row, also of each seed, is for the original cases.
        """
        shape = next(iter(scores.values())).shape[1:]
        drawn = np.empty((*self._seeds.shape, *shape))
        for seed, score in scores.items():
            drawn[self._seeds == seed] = score[1:]
        as_is = np.mean([score[0] for score in scores.values()], axis=0)
        return np.concatenate([as_is[None], drawn.mean(1)])

    def _estimate(self, draws: NDArray[np.float64]) -> Estimate:
        """Return the estimate from a statistic on the original cases and on every replicate: (1 + replicates,)."""
        replicates = draws[1:] if self._varies else np.full(len(draws) - 1, np.nan)
        return Estimate(float(draws[0]), replicates, self._sample)

    def _check(self, seed: int, patients: Mapping[str, Sequence[str]], other: str) -> None:
        own = self._patients[seed]
        for site in sorted(own.keys() | patients.keys()):
            if site not in own or site not in patients or own[site] != tuple(patients[site]):
                raise ValueError(f"seed {seed}, {site}: other patients {other}")


def _draw(rng: np.random.Generator, of_case: Sequence[str], draws: int) -> NDArray[np.float64]:
    """Draw a site's patients and return how often each case is drawn: shape (draws, cases)."""
    names, index = np.unique(np.asarray(of_case), return_inverse=True)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    return times[:, index].astype(float)


def _score(
    run: StreamScores, weights: Mapping[str, NDArray[np.float64]]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]] | None]:
    """Return a run's final score of each site, and the stream's scores, for case weights (draws, cases) by site.

    The final scores have shape (draws, sites), in the order of the weights. Each of the stream's scores has shape
    (draws,); they are None if there are none.
    """
    by_site = {
        site: weights[site] @ values.T / weights[site].sum(1, keepdims=True) for site, values in run.values.items()
    }
    final = np.stack([by_site[site][:, run.deployed[site]] for site in weights], axis=1)
    r = np.stack(list(by_site.values()), axis=2)  # (draws, rows, sites)
    rows, sites = r.shape[1:]
    in_turn = set(run.deployed.values()) == {rows - 1} and rows == sites + 1
    arrivals = [run.arrivals[site] for site in run.values] if run.arrivals else list(range(1, sites + 1))
    if (in_turn or run.arrivals) and {*arrivals} != {1}:
        return final, stacked_scores(r, run.higher_is_better, arrivals)
    return final, None
