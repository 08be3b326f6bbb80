"""What all measurements on a device share: the sizes of what is measured, repeats, peaks of memory, and rows."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fedserdiff.device import finish
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

from benchmarks.inference import GRID
from benchmarks.machine import seconds_of

GIB = 2**30
_WARM_UP = 2  # times that something is done before it is timed

_SITES = tuple(Site(f"site-{number}", "brats2021", "") for number in (1, 2))


@dataclass(frozen=True)
class Size:
    """How large everything is that is measured.

    Attributes
    ----------
    name : str
    laptop, paper, slices : tuple of str and mapping
        A profile and changes of its settings: of the small networks, the large ones, the small ones on 1 mm slices.
    steps, large_steps : tuple of int
        Blocks to time, and the steps of each, of small and of large networks.
    whole_windows : bool
        Whether peers have their own windows, or the smallest that they take.
    copied : int
        Bytes of a tensor that is copied.
    square : int
        Edge of matrices that are multiplied.
    repeats : int
        Of anything else, at most.
    limit_s : float
        Seconds after which a figure has no further repeat.
    compiler : str
        Backend of `torch.compile`.
    """

    name: str
    laptop: tuple[str, Mapping[str, Any]]
    paper: tuple[str, Mapping[str, Any]]
    slices: tuple[str, Mapping[str, Any]]
    steps: tuple[int, int]
    large_steps: tuple[int, int]
    whole_windows: bool
    copied: int
    square: int
    repeats: int
    limit_s: float
    compiler: str


SIZES = {
    size.name: size
    for size in (
        Size(
            "full",
            laptop=("laptop", {}),
            paper=("paper", {}),
            slices=("laptop", {"data.grid": GRID, "data.spacing_mm": 1.0}),
            steps=(5, 10),
            large_steps=(4, 2),
            whole_windows=True,
            copied=2 * GIB,
            square=8192,
            repeats=10,
            limit_s=5.0,
            compiler="inductor",
        ),
        Size(
            "toy",
            laptop=("smoke", {}),
            paper=("smoke", {"data.spatial_dims": 3, "training.batch_size": 2}),
            slices=("smoke", {}),
            steps=(3, 2),
            large_steps=(2, 2),
            whole_windows=False,
            copied=GIB // 64,
            square=256,
            repeats=3,
            limit_s=0.5,
            compiler="eager",  # it traces, and compiles nothing
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """A figure: the median of several.

    Attributes
    ----------
    what, unit : str
    values : tuple of float
        Empty where there is no figure.
    how : str
        What was done; where there is no figure, why.
    peak_gib, predicted_gib : float, optional
        Of a GPU's memory: what torch's allocator held at most, and what was counted from shapes.
    """

    what: str
    unit: str = ""
    values: tuple[float, ...] = ()
    how: str = ""
    peak_gib: float | None = None
    predicted_gib: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "what": self.what, "unit": self.unit, "median": statistics.median(self.values) if self.values else None,
            "values": list(self.values), "how": self.how, "peak_gib": self.peak_gib,
            "predicted_gib": self.predicted_gib,
        }  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Some rows that are measured together.

    Attributes
    ----------
    name : str
    expected_s : float
        Seconds that it takes at full size: where fewer are left, it is left out.
    measure : callable
        Yields its rows, each as it is known.
    """

    name: str
    expected_s: float
    measure: Callable[["Bench"], Iterator[Row]]


@dataclass(frozen=True)
class Bench:
    """A device, and the size of what is measured on it."""

    size: Size
    device: torch.device
    seed: int = field(default=0)

    def config(self, of: str, method: str) -> Settings:
        """Return the settings ``laptop``, ``paper`` or ``slices`` of a method, with two sites."""
        profile, changes = getattr(self.size, of)
        return make_settings(profile, changes, method=method, seed=self.seed).replace(sites=_SITES)

    def timed(self, work: Callable[[], object], times: int = 1) -> tuple[float, ...]:
        """Return the seconds of work, repeated until its repeats or its time is up; `times` is how often it does it."""
        for _ in range(_WARM_UP):
            work()
        finish(self.device)
        values: list[float] = []
        begun = time.perf_counter()
        while len(values) < self.size.repeats and (not values or time.perf_counter() - begun < self.size.limit_s):
            values.append(seconds_of(work, self.device) / times)
        return tuple(values)

    def watch(self) -> None:
        """Begin to watch how much of a GPU's memory is held."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Return the most that was held since `watch`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None


def in_ms(seconds: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    """Return seconds in ms."""
    return tuple(1e3 * value for value in seconds)
