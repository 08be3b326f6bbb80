"""Shared parts of all measurements on a device: sizes, repeats, peak memory, and rows."""

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
_WARM_UP = 2  # runs before timing

_SITES = tuple(Site(f"site-{number}", "brats2021", "") for number in (1, 2))


@dataclass(frozen=True)
class Size:
    """The sizes of everything that is measured.

    Attributes
    ----------
    name : str
    laptop, paper, slices : tuple of str and mapping
        A profile and changes of its settings, for the small networks, the large ones, and the small ones on 1 mm
        slices.
    steps, large_steps : tuple of int
        Number of blocks to time, and of steps in each, for small and for large networks.
    whole_windows : bool
        Whether peers use their own windows, or the smallest that they accept.
    copied : int
        Size in bytes of the tensor in the copy test.
    square : int
        Edge of the multiplied matrices.
    repeats : int
        Most repeats of any other measurement.
    limit_s : float
        Seconds after which a measurement is not repeated again.
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
            compiler="eager",  # traces without compiling
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """One figure: the median of several values.

    Attributes
    ----------
    what, unit : str
    values : tuple of float
        Measured values; empty if there is no figure.
    how : str
        How it was measured, or why there is no figure.
    peak_gib, predicted_gib : float, optional
        GPU memory: the peak of torch's allocator, and the amount computed from shapes.
    """

    what: str
    unit: str = ""
    values: tuple[float, ...] = ()
    how: str = ""
    peak_gib: float | None = None
    predicted_gib: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as it is reported."""
        return {
            "what": self.what, "unit": self.unit, "median": statistics.median(self.values) if self.values else None,
            "values": list(self.values), "how": self.how, "peak_gib": self.peak_gib,
            "predicted_gib": self.predicted_gib,
        }  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A group of rows that are measured together.

    Attributes
    ----------
    name : str
    expected_s : float
        Seconds that it takes at full size; it is skipped if fewer are left.
    measure : callable
        Yields each row when it is measured.
    """

    name: str
    expected_s: float
    measure: Callable[["Bench"], Iterator[Row]]


@dataclass(frozen=True)
class Bench:
    """A device, with the size of the measurements on it."""

    size: Size
    device: torch.device
    seed: int = field(default=0)

    def config(self, of: str, method: str) -> Settings:
        """Return the settings ``laptop``, ``paper`` or ``slices`` of a method, with two sites."""
        profile, changes = getattr(self.size, of)
        return make_settings(profile, changes, method=method, seed=self.seed).replace(sites=_SITES)

    def timed(self, work: Callable[[], object], times: int = 1) -> tuple[float, ...]:
        """Return the seconds of repeated runs of `work`, within repeats and time; `work` does its job `times` times."""
        for _ in range(_WARM_UP):
            work()
        finish(self.device)
        values: list[float] = []
        begun = time.perf_counter()
        while len(values) < self.size.repeats and (not values or time.perf_counter() - begun < self.size.limit_s):
            values.append(seconds_of(work, self.device) / times)
        return tuple(values)

    def watch(self) -> None:
        """Start to record a GPU's peak memory."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Return the peak memory since `watch`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else None


def in_ms(seconds: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    """Return seconds in ms."""
    return tuple(1e3 * value for value in seconds)
