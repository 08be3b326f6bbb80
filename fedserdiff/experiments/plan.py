"""What an experiment will cost on this machine, before it begins: nothing is prepared, and nothing is written."""

import math
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff import wire
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import BadCases, Case, split_patients
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.data.preprocess import CaseArrays, Geometry
from fedserdiff.data.site_cases import convention_of, site_cases
from fedserdiff.data.store.stored_case import label_type
from fedserdiff.device import use_device
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.experiment_file import hospitals_of, phantoms_of
from fedserdiff.experiments.opened_federation import PHANTOM_SITES
from fedserdiff.experiments.simulated_run import on_what_there_is
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.federation import read_federation
from fedserdiff.methods import get_method
from fedserdiff.report.console import duration, print_table
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import Layers
from fedserdiff.threads import use_cpus
from fedserdiff.wire import Memory
from sites.evaluation import score_case
from sites.hospital import Hospital, split_cases
from sites.training import Order, run_round
from strategies.evaluation_plan import plan_evaluation
from strategies.first_stage import begins_with_first_stage
from strategies.stream import make_stream

_STEPS = 4  # that are timed of a stage, after one that is not
_QUICK = {"replay.conditional_maps": 2, "replay.map_steps": 1, "method.inversion_steps": 1}
"""Settings of what a method does before a stage's first step: it is not timed."""


@dataclass(frozen=True)
class Cases:
    """How many cases a site has, of how many patients, to train and to test on; `bad` cannot be used."""

    patients: int
    training: int
    test: int
    bad: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run of `config` will do, and what that takes.

    Attributes
    ----------
    config : Settings
        With its sites.
    cases : tuple of Cases
        Of each site.
    steps : tuple of int
        Of each stage; where a stage is counted in epochs of slices, no more than these.
    scored : int
        Cases that are segmented and scored, in all rows of R.
    disk : int
        Bytes of prepared cases, at most.
    memory : int
        Bytes that a process of a site took to train and to score.
    gpu_memory : int
        Bytes of a GPU's that a training step holds at most, computed from shapes.
    first_s, step_s, score_s : float
        Seconds of a step of stage 1, of a later step, and of segmenting and scoring one case, timed on random scans.
    """

    config: Settings
    cases: tuple[Cases, ...]
    steps: tuple[int, ...]
    scored: int
    disk: int
    memory: int
    gpu_memory: int
    first_s: float
    step_s: float
    score_s: float

    @property
    def first_stage_s(self) -> float:
        """Seconds of training stage 1."""
        return self.steps[0] * self.first_s

    @property
    def seconds(self) -> float:
        """Seconds of all training and scoring."""
        side_by_side = max(1, int((os.cpu_count() or 1) // self.config.machine.cpus_per_site))
        later = sum(self.steps[1:]) * self.step_s
        return self.first_stage_s + later + self.scored * self.score_s / min(side_by_side, len(self.cases))


def sites_of(named: Path | tuple[Site, ...] | None, phantoms: int, config: Settings) -> tuple[list[Site], list[Cases]]:
    """Return hospitals and how many cases each has, by the names of their files; of phantoms by the settings.

    Raises
    ------
    FedSerDiffError
        As `read_federation`, `site_cases` and `split_cases`.
    """
    if named is None:
        patients = [str(number) for number in range(config.data.phantom_patients)]
        training, test = split_patients(patients, config.data.test_share, "phantom")
        cases = Cases(len(patients), len(training), len(test))
        return [Site(f"site-{i + 1}", phantom_hospital(i).release, "") for i in range(phantoms)], [cases] * phantoms
    sites = list(read_federation(named) if isinstance(named, Path) else named)
    counted = []
    for site in sites:
        bad: BadCases = {}
        found = site_cases(site, config, bad)
        training, test = split_cases(site, found, config)
        of = [sum(case.patient in group for case in found) for group in (training, test)]
        counted.append(Cases(len(training | test), of[0], of[1], len(bad)))
    return sites, counted


def make_plan(config: Settings, sites: Sequence[Site], cases: Sequence[Cases]) -> Plan:
    """Say what a run takes: a few steps, and the scoring of one case, are timed on random scans of its size."""
    config = config.replace(sites=tuple(sites))
    stages = make_stream(config).stages([site.name for site in sites])
    rows = plan_evaluation(config, stages).rows
    tested = {site.name: one.test for site, one in zip(sites, cases, strict=True)}
    grid, depth = config.data.grid, config.data.grid[2] if config.data.spatial_dims == 2 else 1
    voxel = 2 * len(config.data.modalities) + label_type(len(config.data.regions)).itemsize
    counts = {site.name: one.training for site, one in zip(sites, cases, strict=True)}
    steps = []
    for stage in stages:
        items = depth * max((counts[name] for name in stage.participants), default=0)
        if stage.name not in counts:  # all sites' cases in one
            items = depth * sum(counts.values())
        epoch = math.ceil(items * (2 if config.training.balance_epochs else 1) / config.training.batch_size)
        steps.append(stage.length * (config.training.steps_per_stage or config.training.epochs_per_stage * epoch))
    first_s, step_s, score_s = _timed(config)
    return Plan(
        config=config,
        cases=tuple(cases),
        steps=tuple(steps),
        scored=sum(tested[name] for row in rows for name in row),
        disk=sum(one.training + one.test for one in cases) * voxel * math.prod(grid),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gpu_memory=_step_memory(config, len(stages)),
        first_s=first_s,
        step_s=step_s,
        score_s=score_s,
    )


def show_plan(console: Console, plans: Sequence[Plan], seeds: int = 1, parallel: int = 1) -> None:
    """Print what runs take, one a method and seed: sites and cases once, then each method's steps and hours, and all.

    Stage 1 is computed once a seed for all methods that begin with it, as ``compare`` does.
    """
    first = plans[0]
    table = Table(title="Hospitals", title_justify="left", title_style="bold")
    for column in ("site", "patients", "training cases", "test cases", "cannot be used"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site, one in zip(first.config.sites, first.cases, strict=True):
        table.add_row(escape(site.name), *map(str, (one.patients, one.training, one.test, one.bad)))
    print_table(console, table)
    table = Table(title="Runs", title_justify="left", title_style="bold")
    for column in ("method", "stages", "steps", "cases scored", "s a step (stage 1, later)", "s a case", "time"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for plan in plans:
        table.add_row(
            escape(plan.config.method.name), str(len(plan.steps)), f"{sum(plan.steps):,}", f"{plan.scored:,}",
            f"{plan.first_s:.3g}, {plan.step_s:.3g}", f"{plan.score_s:.3g}", duration(plan.seconds),
        )  # fmt: skip
    print_table(console, table)
    whole = sum(plan.seconds for plan in plans)
    shared = [plan for plan in plans if begins_with_first_stage(plan.config)]
    whole -= sum(plan.first_stage_s for plan in shared[1:])
    gpu_memory = max(plan.gpu_memory for plan in plans)
    runs, memory = len(plans) * seeds, max(plan.memory for plan in plans)
    for sentence in (
        f"{runs} run{'s' if runs > 1 else ''}, {parallel} at a time: about {duration(whole * seeds / parallel)} of "
        "training and scoring on this machine.",
        f"Prepared cases take at most {_size(first.disk)}, a process about {_size(memory)}.",
        f"On a GPU a training step holds {_size(gpu_memory)}; kernels and torch's reserve take up to a third more.",
        "Timed on random scans. Not counted: preparing cases, what a method does before a stage's first step or hands "
        "over after it, and the start of Flower and Ray.",
        "Nothing was prepared or written.",
    ):
        console.print(sentence, soft_wrap=True)


def _step_memory(config: Settings, stages: int) -> int:
    """Return the bytes that a step holds at most: of a later stage, with what a method keeps, where there is one."""
    return step_memory(config, _random_memory(config, new_student(config)), min(stages, 2))


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _timed(config: Settings) -> tuple[float, float, float]:
    """Return the seconds of a step of stage 1, of a later step, and of scoring a case."""
    own = set(type(config.method).model_fields)
    quick = {name: value for name, value in _QUICK.items() if not name.startswith("method.") or name[7:] in own}
    few = {"training.rounds": 1, "training.steps_per_stage": 1 + _STEPS, "training.epochs_per_stage": 0}
    config = config.replace({**few, **quick})
    use_cpus(config.machine.cpus_per_site)
    device = use_device(config.machine)
    hospital, student = _random_hospital(config), new_student(config).to(device)
    teacher = new_student(config).to(device).eval().requires_grad_(False)
    parts = get_method(config.method.name).parts
    later = Order(2, 1, teachers=(teacher,) * len(parts), memory=_random_memory(config, student))
    first = Order(1, 1, teachers=(None,) * len(parts))
    first_s, step_s = (_step_s(student, order, hospital, config) for order in (first, later))
    for _ in range(2):  # the first one sets things up
        started = time.perf_counter()
        score_case(student.eval(), hospital.test[0], config)
        score_s = time.perf_counter() - started
    return first_s, step_s, score_s


def _step_s(student: Student, order: Order, hospital: Hospital, config: Settings) -> float:
    ends: list[float] = []
    run_round(student, order, hospital, lambda site: hospital, config, lambda *about: ends.append(time.perf_counter()))
    return float(np.median(np.diff(ends)))


def _random_memory(config: Settings, student: Student) -> Memory:
    """Return what a method might keep of a stage, of the agreed shape, all 0."""
    weights = wire.weights_to_record(student)
    memory = {}
    for part in get_method(config.method.name).parts:
        if part.hands_over == wire.FISHER:
            memory[part.hands_over] = {name: torch.zeros_like(w) for name, w in student.named_parameters()}
        elif rules := wire.rules_of(part, config, weights):
            memory[part.hands_over] = {
                name: torch.from_numpy(np.zeros(((rule.most,) if rule.most else ()) + rule.shape, rule.dtype))
                for name, rule in rules.items()
            }
    return memory


def _random_hospital(config: Settings) -> Hospital:
    """Return a hospital of two cases of noise, whose brain fills most of the grid, with a lesion in it."""
    site = config.sites[1] if len(config.sites) > 1 else config.sites[0]
    convention = convention_of(site, config)
    grid = config.data.grid
    inner = tuple(max(1, round(0.85 * n)) for n in grid)
    scan = tuple(max(1, round(n * config.data.spacing_mm)) for n in inner)
    draws = np.random.default_rng(config.seed)
    image = np.zeros((len(config.data.modalities), *grid), np.float16, order="F")
    image[:, : inner[0], : inner[1], : inner[2]] = draws.normal(size=(len(image), *inner)).astype(np.float16)
    geometry = Geometry(_three(scan), (1.0, 1.0, 1.0), (0, 0, 0), _three(scan), _three(inner), (0, 0, 0))
    cases = []
    for name in ("training", "test"):
        masks = [_ball((len(config.data.regions), *shape)) for shape in (grid, scan)]
        case = Case(name, name, (), Path(name), convention)
        cases.append(CachedCase(case, CaseArrays(image, masks[0], masks[1], geometry, "")))
    return Hospital(replace(site, cases=(), test_cases=()), (cases[0],), (cases[1],))


def _three(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = numbers
    return x, y, z


def _ball(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return masks, each a ball of a quarter of the shape's width."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape[1:])]
    ball = np.asarray(sum(axis**2 for axis in axes)) < 0.25**2
    return np.repeat(ball[None], shape[0], 0).astype(np.uint8)


def plan_of(console: Console, layers: Layers, experiment: Path | None, phantoms: int | None) -> Plan:
    """Plan the run that ``simulate`` would begin; raises as `on_what_there_is`, `sites_of` and `hospitals_of`."""
    return plans_of(console, on_what_there_is(console, layers.settings(), layers), experiment, phantoms, None)[0]


def plans_of(
    console: Console, config: Settings, experiment: Path | None, phantoms: int | None, methods: Sequence[str] | None
) -> list[Plan]:
    """Plan a run by each of several methods, or by the config's; raises as `sites_of` and `hospitals_of`."""
    named = hospitals_of(experiment, phantoms)
    sites, cases = sites_of(named, (phantoms_of(experiment) or PHANTOM_SITES) if phantoms is None else phantoms, config)
    plans = []
    with console.status("a few steps are timed"):
        for method in methods or [config.method.name]:
            plans.append(make_plan(config.replace(method=method) if methods else config, sites, cases))
    return plans
