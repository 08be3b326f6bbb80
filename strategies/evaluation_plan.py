"""Which sites score which stage's student: all after every stage, or fewer where the stream is too long for that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from strategies.stream import Stage


@dataclass(frozen=True)
class EvaluationPlan:
    """The entries of R that a run measures (our choice).

    Whole rows, those of the untrained student, of every N-th stage and of the last, are scored by the sites of the
    sample; every other row by what the stream's scores need of it: the site whose stage it was, for R[j, j], and the
    next to arrive, for R[j − 1, j], where that is in the sample, since without R[0, j] it would say nothing. The site
    whose stage it was scores a whole row, too, whether or not it is in the sample. A site that has left scores no row
    until it returns.

    Attributes
    ----------
    every : int
        N.
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
    """Return what a stream of these stages measures by the config's `evaluate_every` and `evaluate_sites`."""
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
    """Yield, by stage, the sites whose stage it is: those that train for the first time, else all of its participants.

    A single stage, of all sites, is no site's own.
    """
    came = set[str]()
    for stage in stages:
        new = [site for site in stage.participants if site not in came]
        came.update(new)
        yield () if len(stages) == 1 else new or stage.participants


def evaluated_sites(config: Settings) -> tuple[str, ...]:
    """Return the sites that score whole rows, in order of arrival: `evaluate_sites` of them, by the seed, or all."""
    names = [site.name for site in config.sites]
    if not 0 < config.scoring.evaluate_sites < len(names):
        return tuple(names)
    order = torch.randperm(len(names), generator=generator(config.seed, "evaluated sites")).tolist()
    return tuple(names[place] for place in sorted(order[: config.scoring.evaluate_sites]))
