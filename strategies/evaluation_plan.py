"""The evaluation plan: which sites score which stage's student. For long streams fewer sites score fewer stages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from strategies.stream import Stage


@dataclass(frozen=True)
class EvaluationPlan:
    """The entries of R that a run measures (our choice).

    Whole rows are those of the untrained student, of every N-th stage and of the last stage; the sites of the sample
    score them. Every other row has only the entries that the stream's scores need: R[j, j] by the site that trained,
    and R[j − 1, j] by the next site to arrive. The latter is measured only if that site is in the sample, because it
    means nothing without R[0, j]. The site that trained also scores whole rows, in the sample or not. A site that has
    left scores no row until it returns.

    Attributes
    ----------
    every : int
        N, the distance of whole rows.
    sites : tuple of str
        The sample, in order of arrival.
    whole : tuple of int
        The numbers of the whole rows, from 0.
    rows : tuple of tuple of str
        The sites that score each row of R, in order of arrival.
    """

    every: int
    sites: tuple[str, ...]
    whole: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]


def plan_evaluation(config: Settings, stages: Sequence[Stage]) -> EvaluationPlan:
    """Return the evaluation plan for these stages by the config's `evaluate_every` and `evaluate_sites`."""
    names = [site.name for site in config.sites]
    sample = evaluated_sites(config)
    whole = tuple(
        row for row in range(len(stages) + 1) if row % config.scoring.evaluate_every == 0 or row == len(stages)
    )
    at_work = [set(newcomers) for newcomers in _newcomers(stages)]
    rows = []
    for row in range(len(stages) + 1):
        wanted = at_work[row - 1] if row else set[str]()
        wanted = wanted | (set(sample) if row in whole else set().union(*at_work[row : row + 1]) & set(sample))
        away = stages[row - 1].away if row else ()
        rows.append(tuple(name for name in names if name in wanted and name not in away))
    return EvaluationPlan(config.scoring.evaluate_every, sample, whole, tuple(rows))


def _newcomers(stages: Sequence[Stage]) -> Iterator[Sequence[str]]:
    """Yield, for each stage, the sites whose stage it is: those that train for the first time, otherwise all
    participants.

    A single stage of all sites belongs to no site.
    """
    came = set[str]()
    for stage in stages:
        new = [site for site in stage.participants if site not in came]
        came.update(new)
        yield () if len(stages) == 1 else new or stage.participants


def evaluated_sites(config: Settings) -> tuple[str, ...]:
    """Return the sites that score whole rows, in order of arrival: all, or `evaluate_sites` drawn with the seed."""
    names = [site.name for site in config.sites]
    if not 0 < config.scoring.evaluate_sites < len(names):
        return tuple(names)
    order = torch.randperm(len(names), generator=generator(config.seed, "evaluated sites")).tolist()
    return tuple(names[place] for place in sorted(order[: config.scoring.evaluate_sites]))
