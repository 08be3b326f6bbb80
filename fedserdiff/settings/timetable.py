"""The timetable: which hospitals arrive, leave and return at which stage."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedserdiff.errors import ConfigError, Faults
from fedserdiff.settings.training import Participation

_MOVES = ("arrive", "leave", "return")
"""The entries of a ``[[stage]]`` that name hospitals."""

_FIELDS = ("name", *_MOVES)


@dataclass(frozen=True)
class StageMoves:
    """One ``[[stage]]`` of an experiment's file: who joins or leaves as the stage begins.

    Attributes
    ----------
    name : str
        Name of the stage in reports.
    arrive : tuple of str
        Hospitals that join for the first time. They train in this stage.
    leave : tuple of str
        Hospitals that leave. They neither train nor score from this stage on.
    back : tuple of str
        Hospitals that left earlier and return. They train in this stage. The file calls the entry ``return``.
    """

    name: str
    arrive: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()
    back: tuple[str, ...] = ()

    @property
    def table(self) -> dict[str, Any]:
        """The stage as in a file, JSON-ready and without empty entries."""
        moves = dict(zip(_MOVES, (self.arrive, self.leave, self.back), strict=True))
        return {"name": self.name, **{name: list(sites) for name, sites in moves.items() if sites}}


@dataclass(frozen=True)
class Timetable:
    """Who is in the federation at each stage.

    Attributes
    ----------
    names : tuple of str
        The stages' names, in order.
    training : tuple of tuple of str
        By stage, the hospitals that train in it, in order of arrival.
    leaving : tuple of tuple of str
        By stage, the hospitals that leave as it begins.
    away : tuple of tuple of str
        By stage, the hospitals that have left and not returned.
    """

    names: tuple[str, ...]
    training: tuple[tuple[str, ...], ...]
    leaving: tuple[tuple[str, ...], ...]
    away: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.names)

    def arrival(self, site: str) -> int:
        """Return the first stage, from 1, in which a hospital trains."""
        return self.stages_of(site)[0]

    def stages_of(self, site: str) -> tuple[int, ...]:
        """Return the stages, from 1, in which a hospital trains."""
        return tuple(stage for stage, sites in enumerate(self.training, 1) if site in sites)

    def before(self, stage: int) -> tuple[str, ...]:
        """Return the hospitals that have trained before a stage and have not left, in order of arrival."""
        trained = dict.fromkeys(site for sites in self.training[: stage - 1] for site in sites)
        return tuple(site for site in trained if site not in self.away[stage - 1])


def make_timetable(
    sites: Sequence[str], moves: Sequence[StageMoves], participation: Participation, together: bool
) -> Timetable:
    """Return the timetable of hospitals in order of arrival.

    Parameters
    ----------
    sites : sequence of str
    moves : sequence of StageMoves
        Moves checked by `check_moves`. If there are none, each hospital has its own stage.
    participation : str
        ``arriving`` if only hospitals that arrive or return train in a stage, ``cumulative`` if all present ones do.
    together : bool
        Whether all hospitals arrive in one stage; `moves` are then ignored.
    """
    if together:
        return Timetable(("together",), (tuple(sites),), ((),), ((),))
    stages = moves or [StageMoves(site, (site,)) for site in sites]
    training, away = [], []
    there: list[str] = []
    gone: list[str] = []
    for stage in stages:
        there, gone = _moved(there, gone, stage)
        at_work = there if participation == "cumulative" else [*stage.arrive, *stage.back]
        training.append(tuple(site for site in sites if site in at_work))
        away.append(tuple(site for site in sites if site in gone))
    return Timetable(tuple(s.name for s in stages), tuple(training), tuple(s.leave for s in stages), tuple(away))


def moves_from(tables: Any) -> tuple[StageMoves, ...]:
    """Read the ``[[stage]]`` tables of an experiment, from a file or from `StageMoves.table`.

    A stage without a name is named after the hospitals that arrive or return in it.

    Raises
    ------
    ConfigError
        Names the stage and field of each mistake.
    """
    if not isinstance(tables, list | tuple):
        raise ConfigError("stages: write each stage as a [[stage]] table")
    faults = Faults(ConfigError)
    stages = []
    for number, table in enumerate(tables, 1):
        where = f"stages: stage {number}"
        if isinstance(table, StageMoves):
            stages.append(table)
            continue
        if not isinstance(table, Mapping):
            faults.add(f"{where}: write it as a [[stage]] table")
            continue
        for field in sorted(set(table) - set(_FIELDS)):
            faults.add(f"{where}: {field}: unknown field: choose from {', '.join(_FIELDS)}")
        named = {}
        for field in _MOVES:
            sites = table.get(field, ())
            if not isinstance(sites, list | tuple) or not all(isinstance(site, str) for site in sites):
                faults.add(f"{where}: {field}: {sites!r} is not a list of hospitals' names")
                sites = ()
            named[field] = tuple(sites)
        name = table.get("name") or _called(named["arrive"], named["return"])
        if not isinstance(name, str):
            faults.add(f"{where}: name: {name!r} is not a string")
            name = ""
        stages.append(StageMoves(name, named["arrive"], named["leave"], named["return"]))
    faults.check()
    return tuple(stages)


def check_moves(sites: Sequence[str], moves: Sequence[StageMoves], participation: Participation) -> None:
    """Check that stages and hospitals fit each other.

    Raises
    ------
    ValueError
        If a stage names an unknown hospital, a hospital leaves or returns when it cannot, a hospital never arrives or
        arrives twice, hospitals are not listed in order of arrival, a stage trains no hospital, or two stages have the
        same name.
    """
    there, gone, came = list[str](), list[str](), list[str]()
    for number, stage in enumerate(moves, 1):
        where = f"stages: stage {number}"
        allowed = (
            ("arrive", stage.arrive, [site for site in sites if site not in came], "has arrived already"),
            ("leave", stage.leave, there, "is not in the federation"),
            ("return", stage.back, gone, "has not left before"),
        )
        for field, named, possible, why in allowed:
            for site in named:
                if site not in sites:
                    raise ValueError(f"{where}: {field}: {site!r} is not one of the hospitals: {', '.join(sites)}")
                if site not in possible or named.count(site) > 1:
                    raise ValueError(f"{where}: {field}: {site!r} {'is named twice' if site in possible else why}")
        came += stage.arrive
        there, gone = _moved(there, gone, stage)
        if not (there if participation == "cumulative" else (*stage.arrive, *stage.back)):
            raise ValueError(f"{where}: no hospital trains in it; name one that arrives or returns")
        if stage.name in [earlier.name for earlier in moves[: number - 1]]:
            raise ValueError(f"{where}: name: {stage.name!r} is already the name of an earlier stage")
    if missing := [site for site in sites if site not in came]:
        raise ValueError(f"stages: {', '.join(missing)}: never arrives; name it in the arrive of one stage")
    ranks = {site: number for number, stage in enumerate(moves) for site in stage.arrive}
    for one, other in itertools.pairwise(sites):
        if ranks[one] > ranks[other]:
            raise ValueError(f"stages: {other!r} arrives before {one!r}; list the hospitals in order of arrival")


def _moved(there: Sequence[str], gone: Sequence[str], stage: StageMoves) -> tuple[list[str], list[str]]:
    """Return the hospitals that are there, and those that have left, once a stage has begun."""
    return (
        [site for site in (*there, *stage.arrive, *stage.back) if site not in stage.leave],
        [site for site in (*gone, *stage.leave) if site not in stage.back],
    )


def _called(arriving: Sequence[str], returning: Sequence[str]) -> str:
    names = [*arriving, *(f"{site} again" for site in returning)]
    return " + ".join(names) if len(names) < 3 else f"{names[0]} + {len(names) - 1} more"
