"""The costs of each stage of a running simulation, and their growth along the stream."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from fedserdiff.report.events import RunEvents
from strategies.run_directory import RunDirectory

from benchmarks.process_memory import peaks

Cost = Mapping[str, Any]
"""Costs of one stage, by the names of `UNITS`, with its number as ``stage``."""

UNITS = {"seconds": "s", "coordinator": "MiB", "worker": "MiB", "bytes out": "B", "bytes in": "B"}
"""Costs of a stage: wall time and bytes of its rounds, including writing; peak memory, including scoring."""

LEAST_STAGES = 3
"""Least number of stages: stage 1 has no replay, so growth can be seen only from stage 2 on."""

_WINDOW = 10
_FLAT = 0.01  # tolerance for bytes: numbers in their headers get longer


class StageCosts(RunEvents):
    """A recorder of each stage's costs, from the events and ``results.json`` of a run with one site per stage.

    Parameters
    ----------
    run : RunDirectory
        Directory of the run.
    tell : callable
        Called with each stage's costs after its student has been scored.
    """

    def __init__(self, run: RunDirectory, tell: Callable[[Cost], None] = lambda cost: None) -> None:
        self._run = run
        self._tell = tell
        self._site = ""
        self._began = 0.0
        self._before: tuple[int, int] = (0, 0)
        self._rounds: dict[str, float] = {}
        self.costs: list[Cost] = []

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        (self._site,) = participants
        self._before, self._rounds = self._bytes(), {}
        self._began = time.monotonic()

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        if stage == 0 or self._rounds:  # the untrained student, or a late site
            return
        seconds = time.monotonic() - self._began
        out, into = (after - before for after, before in zip(self._bytes(), self._before, strict=True))
        self._rounds = {"seconds": seconds, "bytes out": out, "bytes in": into}

    def stage_evaluated(self, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        peak = peaks()
        if stage > len(self.costs):
            self.costs.append({"stage": stage, **self._rounds, **peak})
            self._tell(self.costs[-1])

    def _bytes(self) -> tuple[int, int]:
        results = json.loads((self._run.path / "results.json").read_text())
        out, into = (sum(results[ledger][self._site].values()) for ledger in ("bytes_out", "bytes_in"))
        return out, into


def in_words(cost: Cost) -> str:
    """Return a stage's costs as a line of text."""
    return f"stage {cost['stage']}: " + ", ".join(f"{name} {_value(cost[name], unit)}" for name, unit in UNITS.items())


def medians(costs: Sequence[Cost]) -> dict[str, dict[str, float]]:
    """Return the medians over the first ten stages from stage 2 on and over the last ten; there must be 2 stages."""
    early, late = costs[1 : _WINDOW + 1], costs[max(1, len(costs) - _WINDOW) :]
    return {
        f"stages {part[0]['stage']} to {part[-1]['stage']}": {name: median(c[name] for c in part) for name in UNITS}
        for part in (early, late)
    }


def growth(costs: Sequence[Cost]) -> list[str]:
    """Return texts on late costs compared with early ones, and on whether the bytes are constant."""
    by_part = medians(costs)
    early, late = next(iter(by_part.values())), list(by_part.values())[-1]
    parts = [
        f"{part}: " + ", ".join(f"{name} {_value(value, UNITS[name])}" for name, value in values.items())
        for part, values in by_part.items()
    ]
    grown = [name for name, unit in UNITS.items() if unit == "B" and late[name] > (1 + _FLAT) * early[name]]
    change = ", ".join(f"{name} {100 * (late[name] / early[name] - 1):+.1f} %" for name in UNITS if early[name])
    flat = f"NOT flat: {' and '.join(grown)} grow along the stream" if grown else "flat"
    return [*(f"medians of {part}" for part in parts), f"change: {change}; bytes are {flat}"]


def _value(value: float, unit: str) -> str:
    return f"{value:.2f} s" if unit == "s" else f"{value:,.0f} {unit}"
