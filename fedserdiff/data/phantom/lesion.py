"""What disease adds to a brain: a glioma with its parts, white-matter hyperintensities, a resection cavity."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.phantom.anatomy import Anatomy, distance_to_edge, smooth_noise

_SPOT_MM = (2.0, 5.0)  # radii of white-matter hyperintensities


@dataclass(frozen=True)
class Population:
    """How one hospital's patients differ from another's.

    Attributes
    ----------
    radius_mm : tuple of float
        Range of the mean radius of the whole tumour, oedema included.
    non_enhancing : float
        Share of patients whose tumour has no enhancing rim, in [0, 1].
    hyperintensities : tuple of int
        Range (inclusive) of the number of white-matter hyperintensities: they look like oedema and are not labelled.
    cavities : float
        Share of patients with a resection cavity (only releases with label 4), in [0, 1].
    """

    radius_mm: tuple[float, float]
    non_enhancing: float
    hyperintensities: tuple[int, int]
    cavities: float = 0.0


@dataclass(frozen=True)
class Lesion:
    """Masks of shape (X, Y, Z), bool; disjoint but for `hyperintensity`, which tumour overrides."""

    oedema: NDArray[np.bool_]
    core: NDArray[np.bool_]
    necrosis: NDArray[np.bool_]
    rim: NDArray[np.bool_]
    cavity: NDArray[np.bool_]
    hyperintensity: NDArray[np.bool_]


def random_lesion(rng: np.random.Generator, anatomy: Anatomy, population: Population, spacing_mm: float) -> Lesion:
    """Draw one patient's disease: nested noisy ellipsoids grown from a seed in deep white matter (our choice)."""
    brain = anatomy.brain
    depth_mm = distance_to_edge(brain, brain) * spacing_mm
    radius = rng.uniform(*population.radius_mm)
    seeds = np.argwhere((depth_mm > 0.6 * radius) & (anatomy.wm > 0.5))
    if len(seeds) == 0:
        seeds = np.argwhere(depth_mm >= depth_mm.max() - spacing_mm)
    seed = seeds[rng.integers(len(seeds))]

    level = _noisy_ellipsoid(rng, brain.shape, seed, radius, spacing_mm)
    inside = brain & (anatomy.csf < 0.7)
    tumour = inside & (level < 1.0)
    core_level = rng.uniform(0.52, 0.68)
    core_all = inside & (level < core_level)
    enhancing = rng.random() >= population.non_enhancing
    necrosis = core_all & (level < core_level * rng.uniform(0.45, 0.7)) if enhancing else np.zeros_like(brain)
    rim_all = core_all & ~necrosis if enhancing else np.zeros_like(brain)
    # A part of the solid tumour does not enhance: real rims are rarely closed.
    patchy = smooth_noise(rng, brain.shape, 8.0 / spacing_mm) > 1.3
    rim = rim_all & ~patchy
    core = core_all & ~necrosis & ~rim

    cavity = np.zeros_like(brain)
    if rng.random() < population.cavities:
        offset = rng.normal(size=3)
        centre = seed + offset / np.linalg.norm(offset) * radius * 0.5 / spacing_mm
        hole = _noisy_ellipsoid(rng, brain.shape, centre, 0.45 * radius, spacing_mm)
        cavity = brain & (hole < 1.0)

    keep = ~cavity
    return Lesion(
        oedema=tumour & ~core_all & keep,
        core=core & keep,
        necrosis=necrosis & keep,
        rim=rim & keep,
        cavity=cavity,
        hyperintensity=_hyperintensities(rng, anatomy, population, spacing_mm) & ~tumour & keep,
    )


def _noisy_ellipsoid(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    centre: NDArray[np.floating] | NDArray[np.integer],
    radius_mm: float,
    spacing_mm: float,
) -> NDArray[np.float32]:
    """Return a level function that is 0 at `centre` and 1 on an irregular surface at about `radius_mm`."""
    x, y, z = shape
    axes = np.ogrid[:x, :y, :z]
    stretch = rng.uniform(0.8, 1.25, 3)
    along = [(axis.astype(np.float32) - np.float32(at)) * spacing_mm for axis, at in zip(axes, centre, strict=True)]
    distance = np.sqrt(sum((offset / s) ** 2 for offset, s in zip(along, stretch, strict=True)))
    wobble = 1.0 + 0.14 * smooth_noise(rng, (x, y, z), 7.0 / spacing_mm)
    return np.asarray(distance / (radius_mm * np.clip(wobble, 0.5, 1.6)), np.float32)


def _hyperintensities(
    rng: np.random.Generator, anatomy: Anatomy, population: Population, spacing_mm: float
) -> NDArray[np.bool_]:
    """Scatter small periventricular spots: balls in white matter near CSF."""
    spots = np.zeros_like(anatomy.brain)
    count = int(rng.integers(population.hyperintensities[0], population.hyperintensities[1] + 1))
    if count == 0:
        return spots
    near_csf = distance_to_edge(anatomy.csf < 0.6, anatomy.brain) * spacing_mm < 14.0
    places = np.argwhere((anatomy.wm > 0.8) & near_csf)
    if len(places) == 0:
        return spots
    reach = math.ceil(_SPOT_MM[1] / spacing_mm)
    for place in places[rng.integers(len(places), size=count)]:
        box = tuple(slice(max(at - reach, 0), min(at + reach + 1, n)) for at, n in zip(place, spots.shape, strict=True))
        along = zip(np.ogrid[box], place, strict=True)
        distance = np.sqrt(sum(((axis - at) * spacing_mm) ** 2 for axis, at in along))
        spots[box] |= distance < rng.uniform(*_SPOT_MM)
    return spots & (anatomy.wm > 0.4)
