"""A hospital with random scans of an experiment's size, for timing steps and scoring without files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fedserdiff import wire
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import Case
from fedserdiff.data.preprocess import CaseArrays, Geometry
from fedserdiff.data.site_cases import convention_of
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.methods import get_method
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.wire import Memory
from sites.adapters import learns_adapter
from sites.hospital import Hospital
from sites.training import Order

LITTLE_BEFORE_STEPS = {"replay.conditional_maps": 2, "replay.map_steps": 1}
"""Settings that reduce a method's work before a stage's first step, without making a step faster."""


def random_hospital(config: Settings) -> Hospital:
    """Return a hospital with two random cases, whose brain fills most of the grid and contains a lesion.

    Parameters
    ----------
    config : Settings
        Settings with their sites; the hospital is the second site, or the only one. One case is for training, one for
        testing.
    """
    site = _site(config)
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
    return Hospital(replace(site, cases=(), test_cases=(), validation_cases=()), (cases[0],), (cases[1],))


def random_memory(config: Settings, student: Student) -> Memory:
    """Return what the config's method might keep from a stage that ended with `student`: zeros of the agreed shapes."""
    weights = wire.weights_to_record(student)
    memory = {}
    for part in get_method(config.method.name).parts:
        if part.hands_over in (wire.FISHER, wire.CONTROL):
            memory[part.hands_over] = {name: torch.zeros_like(w) for name, w in student.named_parameters()}
        elif rules := wire.rules_of(part, config, weights):
            memory[part.hands_over] = {
                name: torch.from_numpy(np.zeros(((rule.most,) if rule.most else ()) + rule.shape, rule.dtype))
                for name, rule in rules.items()
            }
    return memory


def random_orders(config: Settings, student: Student) -> tuple[Order, Order]:
    """Return the orders for stage 1 and for a later stage, for a `random_hospital`.

    Teacher and adapter, if there is one, are untrained, which does not change the cost of a step.
    """
    device = student.device
    parts = get_method(config.method.name).parts
    teacher = new_student(config).to(device).eval().requires_grad_(False)
    adapter = None
    if learns_adapter(config, _site(config).name):
        adapter = SiteAdapter(len(config.data.modalities)).to(device)
    memory = random_memory(config, student)
    return (
        Order(1, 1, teachers=(None,) * len(parts)),
        Order(2, 1, teachers=(teacher,) * len(parts), memory=memory, adapter=adapter),
    )


def _site(config: Settings) -> Site:
    return config.sites[1] if len(config.sites) > 1 else config.sites[0]


def _three(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    x, y, z = numbers
    return x, y, z


def _ball(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return masks, each a ball with a quarter of the shape's width as its diameter."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape[1:])]
    ball = np.asarray(sum(axis**2 for axis in axes)) < 0.25**2
    return np.repeat(ball[None], shape[0], 0).astype(np.uint8)
