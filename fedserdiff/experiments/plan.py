"""Cost estimate of an experiment on this machine, made before it starts, without preparing or writing anything."""

import math
import os
import resource
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.data.cases import BadCases
from fedserdiff.data.phantom.site import phantom_site
from fedserdiff.data.site_cases import site_cases
from fedserdiff.data.split import Side, Split, split_patients
from fedserdiff.data.store.stored_case import label_type
from fedserdiff.device import room_on, use_device
from fedserdiff.diffusion.precision import has_bf16
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiment_file import hospitals_of, phantoms_of
from fedserdiff.experiments.opened_federation import PHANTOM_SITES
from fedserdiff.experiments.random_hospital import LITTLE_BEFORE_STEPS, random_hospital, random_orders
from fedserdiff.experiments.simulated_run import on_what_there_is
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.experiments.step_time import step_seconds
from fedserdiff.federation import read_federation
from fedserdiff.report.console import duration, print_table
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import Layers
from fedserdiff.threads import use_cpus
from sites.evaluation import score_case
from sites.hospital import split_cases
from strategies.evaluation_plan import plan_evaluation
from strategies.first_stage import begins_with_first_stage
from strategies.stage_runner import drawn_count
from strategies.stream import make_stream

_BLOCKS, _STEPS = 2, 2  # timed blocks of a stage, and steps in each


@dataclass(frozen=True)
class Cases:
    """Number of a site's patients and of its cases in each split; `bad` cases cannot be used."""

    patients: int
    training: int
    test: int
    validation: int = 0
    bad: int = 0

    @property
    def usable(self) -> int:
        """Number of usable cases."""
        return self.training + self.validation + self.test

    def of(self, side: Side) -> int:
        """Return the number of cases in one split."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[side]


@dataclass(frozen=True)
class Plan:
    """The work and the cost of a run of `config`.

    Attributes
    ----------
    config : Settings
        Settings with their sites.
    cases : tuple of Cases
        Cases of each site.
    steps : tuple of int
        Steps of one hospital in each stage; an upper bound if a stage is counted in epochs of slices.
    participants : tuple of int
        Number of hospitals that train in a round of each stage.
    scored : int
        Number of cases segmented for scoring or for choosing thresholds, over all rows of R.
    disk : int
        Upper bound of the bytes of prepared cases.
    memory : int
        Bytes that a site's process needed for training and scoring.
    gpu_memory : int
        Largest number of bytes that a training step holds on a GPU, computed from shapes.
    first_s, step_s, score_s : float
        Seconds of a step of stage 1, of a later step, and of segmenting and scoring one case, timed on random scans;
        NaN if a step needs more memory than there is.
    """

    config: Settings
    cases: tuple[Cases, ...]
    steps: tuple[int, ...]
    participants: tuple[int, ...]
    scored: int
    disk: int
    memory: int
    gpu_memory: int
    first_s: float
    step_s: float
    score_s: float

    @property
    def fits(self) -> bool:
        """Whether a step fits into memory."""
        return math.isfinite(self.seconds)

    @property
    def first_stage_s(self) -> float:
        """Seconds of training in stage 1."""
        return self._one_after_another[0] * self.first_s

    @property
    def seconds(self) -> float:
        """Seconds of all training and scoring."""
        later = sum(self._one_after_another[1:]) * self.step_s
        return self.first_stage_s + later + self.scored * self.score_s / min(self._side_by_side, len(self.cases))

    @property
    def _side_by_side(self) -> int:
        """Number of hospitals that work at the same time."""
        return max(1, int((os.cpu_count() or 1) // self.config.machine.cpus_per_site))

    @property
    def _one_after_another(self) -> list[int]:
        """Sequential steps of each stage; hospitals that work at the same time count once."""
        turns = (math.ceil(training / self._side_by_side) for training in self.participants)
        return [steps * times for steps, times in zip(self.steps, turns, strict=True)]


def sites_of(named: Path | tuple[Site, ...] | None, phantoms: int, config: Settings) -> tuple[list[Site], list[Cases]]:
    """Return the hospitals and their case counts, from file names or, for phantoms, from the settings.

    Raises
    ------
    FedSerDiffError
        As in `read_federation`, `site_cases` and `split_patients`.
    """
    if named is None:
        arriving = [phantom_site(index, config) for index in range(phantoms)]
        splits = [split_patients(site, patients, config) for site, patients in arriving]
        counts = [_counts(patients, split) for (_, patients), split in zip(arriving, splits, strict=True)]
        return [site for site, _ in arriving], counts
    sites = list(read_federation(named) if isinstance(named, Path) else named)
    counted = []
    for site in sites:
        bad: BadCases = {}
        found = site_cases(site, config, bad)
        split = split_cases(site, found, config)
        counted.append(_counts({case.name: case.patient for case in found}, split, len(bad)))
    return sites, counted


def _counts(patients: Mapping[str, str], split: Split, bad: int = 0) -> Cases:
    """Count a site's cases, given the patient of each by case name."""
    sides = Counter(map(split.side_of, patients.values()))
    return Cases(len(set(patients.values())), sides["training"], sides["test"], sides["validation"], bad)


def make_plan(config: Settings, sites: Sequence[Site], cases: Sequence[Cases]) -> Plan:
    """Estimate the cost of a run by timing a few steps and the scoring of one case on random scans of its size."""
    config = config.replace(sites=tuple(sites))
    stages = make_stream(config).stages([site.name for site in sites])
    rows = plan_evaluation(config, stages).rows
    choosing = config.scoring.least_from == "validation"  # thresholds are chosen on patients who are segmented for it
    scored = {
        site.name: one.of(config.scoring.patients) + (one.validation if choosing else 0)
        for site, one in zip(sites, cases, strict=True)
    }
    grid, depth = config.data.grid, config.data.grid[2] if config.data.spatial_dims == 2 else 1
    voxel = 2 * len(config.data.modalities) + label_type(len(config.data.regions)).itemsize
    counts = {site.name: one.training for site, one in zip(sites, cases, strict=True)}
    steps = []
    for stage in stages:
        items = depth * max((counts[name] for name in stage.participants), default=0)
        if stage.pools:
            items = depth * sum(counts.values())
        epoch = math.ceil(items * (2 if config.training.balance_epochs else 1) / config.training.batch_size)
        steps.append(stage.length * (config.training.steps_per_stage or config.training.epochs_per_stage * epoch))
    device = use_device(config.machine)
    fits = _held_on(device, config, len(stages)) < room_on(device)
    first_s, step_s, score_s = _timed(config, device) if fits else (math.nan,) * 3
    return Plan(
        config=config,
        cases=tuple(cases),
        steps=tuple(steps),
        participants=tuple(drawn_count(config, len(stage.participants)) for stage in stages),
        scored=sum(scored[name] for row in rows for name in row),
        disk=sum(one.usable for one in cases) * voxel * math.prod(grid),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_memory=step_memory(config, min(len(stages), 2)),
        first_s=first_s,
        step_s=step_s,
        score_s=score_s,
    )


def show_plan(console: Console, plans: Sequence[Plan], seeds: int = 1, parallel: int = 1) -> None:
    """Print the cost of runs, one for each method and seed: sites and cases, each method's steps and hours, and totals.

    Stage 1 is counted once for each seed and all methods that share it, as ``compare`` computes it.
    """
    first = plans[0]
    table = Table(title="Hospitals", title_justify="left", title_style="bold")
    sides: list[Side] = ["training", "validation", "test"]
    if not any(one.validation for one in first.cases):
        sides.remove("validation")
    for column in ("site", "patients", *(f"{side} cases" for side in sides), "cannot be used"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site, one in zip(first.config.sites, first.cases, strict=True):
        table.add_row(escape(site.name), *map(str, (one.patients, *map(one.of, sides), one.bad)))
    print_table(console, table)
    table = Table(title="Runs", title_justify="left", title_style="bold")
    for column in ("method", "stages", "steps", "cases scored", "s per step (stage 1, later)", "s per case", "time"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for plan in plans:
        timed = [f"{plan.first_s:.3g}, {plan.step_s:.3g}", f"{plan.score_s:.3g}", duration(plan.seconds)]
        counts = [str(len(plan.steps)), f"{sum(plan.steps):,}", f"{plan.scored:,}"]
        table.add_row(escape(plan.config.method.name), *counts, *(timed if plan.fits else ["not timed"] * 3))
    print_table(console, table)
    whole = sum(plan.seconds for plan in plans)
    shared = [plan for plan in plans if begins_with_first_stage(plan.config)]
    whole -= sum(plan.first_stage_s for plan in shared[1:])
    gpu_memory = max(plan.gpu_memory for plan in plans)
    runs, memory = len(plans) * seeds, max(plan.memory for plan in plans)
    validating = "validation during training, " if first.config.training.validate_every else ""
    takes = f"about {duration(whole * seeds / parallel)} of training and scoring on this machine"
    process = f", a process about {_size(memory)}"
    if not all(plan.fits for plan in plans):
        takes, process = "not timed, because a training step needs more memory than this machine has free", ""
    for sentence in (
        f"{runs} run{'s' if runs > 1 else ''}, {parallel} at a time: {takes}.",
        f"Prepared cases take at most {_size(first.disk)}{process}.",
        f"On a GPU a training step holds {_size(gpu_memory)}; kernels and torch's reserve need up to a third more.",
        f"Times were measured on random scans. They do not include preparing cases, {validating}a method's work "
        "before a stage's first step and after its last, and the start of Flower and Ray.",
        "Nothing was prepared or written.",
    ):
        console.print(sentence, soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _held_on(device: torch.device, config: Settings, stages: int) -> int:
    """Return the bytes that a step holds on a device, in the precision used on that device."""
    auto = config.network.precision == "auto" and not has_bf16(device.type)
    return step_memory(config.replace({"network.precision": "fp32"}) if auto else config, min(stages, 2))


def _timed(config: Settings, device: torch.device) -> tuple[float, float, float]:
    """Return the seconds of a step of stage 1, of a later step, and of scoring a case."""
    config = config.replace(LITTLE_BEFORE_STEPS)
    use_cpus(config.machine.cpus_per_site)
    hospital, student = random_hospital(config), new_student(config).to(device)
    first_s, step_s = (
        float(np.median(step_seconds(student, order, hospital, config, _BLOCKS, _STEPS)))
        for order in random_orders(config, student)
    )
    for _ in range(2):  # the first one warms up
        started = time.perf_counter()
        # scoring is on the host, so no work is pending on the device
        score_case(student.eval(), hospital.test[0], config)
        score_s = time.perf_counter() - started
    return first_s, step_s, score_s


def plan_of(console: Console, layers: Layers, experiment: Path | None, phantoms: int | None) -> Plan:
    """Plan the run that ``simulate`` would start; raise as `on_what_there_is`, `sites_of` and `hospitals_of` do."""
    return plans_of(console, on_what_there_is(console, layers.settings(), layers), experiment, phantoms, None)[0]


def plans_of(
    console: Console, config: Settings, experiment: Path | None, phantoms: int | None, methods: Sequence[str] | None
) -> list[Plan]:
    """Plan a run for each of several methods, or for the config's; raise as `sites_of` and `hospitals_of` do."""
    named = hospitals_of(experiment, phantoms)
    sites, cases = sites_of(named, (phantoms_of(experiment) or PHANTOM_SITES) if phantoms is None else phantoms, config)
    plans = []
    with console.status("timing a few steps"):
        for method in methods or [config.method.name]:
            plans.append(make_plan(config.replace(method=method) if methods else config, sites, cases))
    return plans
