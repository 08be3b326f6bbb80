"""Studies: each varies one setting, keeps the rest, and reports a table, a plot and a few sentences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.sentences import interval_text, scaled
from fedserdiff.comparison.summary import estimates_by_metric
from fedserdiff.data.cache import CachedCase
from fedserdiff.evaluation.bootstrap import Estimate
from fedserdiff.settings.experiment import Settings

StudyRuns = Mapping[str, Mapping[int, RunRecord]]
"""Finished runs by name of the variant and by seed."""


@dataclass(frozen=True)
class FirstHospital:
    """The cases of the first site, for studies that vary the training data of stage 1."""

    training: Sequence[CachedCase]
    validation: Sequence[CachedCase]
    test: Sequence[CachedCase]


VALIDATION_SHARE = 0.25
"""Share of a site's patients that a study scores, unless settings or site name validation patients (our choice)."""


def scored_on_validation(config: Settings) -> Settings:
    """Return the config for a study. A study's result may be used to choose settings, so no test patient is scored.

    Raises
    ------
    ConfigError
        If the config's test share leaves too few patients.
    """
    share = config.data.validation_share or VALIDATION_SHARE
    return config.replace({"data.validation_share": share, "scoring.patients": "validation"})


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes
    ----------
    name, title, question : str
        Name for the command line; title and question for the page.
    variants : callable
        Takes a seed's config, as `scored_on_validation` returns it, and the first hospital; returns the config of each
        variant by name, in the order of the table.
    describe : callable
        Takes the finished runs and whether the data are phantoms; returns the study's ``columns``, ``rows``, ``plot``
        and ``sentences`` for `fedserdiff.report.page`, and ``verdicts`` as `compared` returns them. Only `judge`
        decides which of two is better.
    sites : int
        Number of phantom hospitals that the study needs; 0 for as many as the comparison has.
    """

    name: str
    title: str
    question: str
    variants: Callable[[Settings, FirstHospital], dict[str, Settings]]
    describe: Callable[[StudyRuns, bool], dict[str, Any]]
    sites: int = 0


@dataclass(frozen=True)
class Outcome:
    """The result of one variant in a study's table: estimates over seeds and patients, and means over seeds.

    Attributes
    ----------
    dice, hd95 : Estimate
        Final score, mean over sites.
    forgetting : Estimate or None
        Forgetting of Dice.
    first, last : float
        Final Dice on the first and on the last site.
    """

    dice: Estimate
    hd95: Estimate
    forgetting: Estimate | None
    first: float
    last: float


def outcomes(runs: StudyRuns, phantom: bool) -> dict[str, Outcome]:
    """Return the outcome of each variant; replicates of the Dice estimates are paired across variants."""
    estimates = estimates_by_metric(runs, phantom)
    return {
        name: Outcome(
            dice=required(estimates[name]["dice"]["final"]),
            hd95=required(estimates[name]["hd95"]["final"]),
            forgetting=estimates[name]["dice"]["forgetting"],
            first=mean_of(by_seed, lambda run: run.final("dice")[0]),
            last=mean_of(by_seed, lambda run: run.final("dice")[-1]),
        )
        for name, by_seed in runs.items()
    }


def mean_of(by_seed: Mapping[int, RunRecord], value: Callable[[RunRecord], float]) -> float:
    """Return the mean of a run's value over seeds."""
    return sum(value(run) for run in by_seed.values()) / len(by_seed)


def required(estimate: Estimate | None) -> Estimate:
    """Return an estimate that always exists, such as ``final``, without None in its type."""
    assert estimate is not None
    return estimate


COLUMNS = ("Dice % [95 %]", "HD95 mm [95 %]", "Dice % on first site", "Dice % on last site", "forgetting")


def cells(outcome: Outcome) -> list[Any]:
    """Return the cells for `COLUMNS`."""
    return [
        interval_text(scaled(outcome.dice, 100)),
        interval_text(outcome.hd95),
        100 * outcome.first,
        100 * outcome.last,
        None if outcome.forgetting is None else 100 * outcome.forgetting.value,
    ]


def series(label: str, x: Sequence[Any], of: Sequence[Estimate]) -> dict[str, Any]:
    """Return a series for a plot: Dice in % with intervals."""
    intervals = [scaled(estimate, 100).interval() for estimate in of]
    return {
        "label": label,
        "x": list(x),
        "y": [i.value for i in intervals],
        "low": [i.low for i in intervals],
        "high": [i.high for i in intervals],
        "texts": None,
    }


def plain_series(
    label: str, x: Sequence[Any], y: Sequence[float], texts: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return a series for a plot, without intervals."""
    return {"label": label, "x": list(x), "y": list(y), "low": None, "high": None, "texts": texts and list(texts)}
