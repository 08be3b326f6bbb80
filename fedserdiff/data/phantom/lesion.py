"""Disease in a brain: a glioma with its parts, white-matter hyperintensities, and a resection cavity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.phantom.anatomy import Anatomy, distance_to_edge, smooth_noise

_SPOT_MM = (2.0, 5.0)  # radii of white-matter hyperintensities
_DISEASED = ("oedema", "core", "necrosis", "rim")  # tissues whose relaxation differs from patient to patient
_PATCH_MM = 8.0  # length scale of patchy enhancement
_SECOND_FOCUS = (0.35, 0.6)  # radius relative to the first focus
# Measured on BraTS 2018 and 2020, docs/explanation/patient-stream.md: oedema is a quarter to a half of tumours that do
# not enhance; about half of the hospitals' low-grade patients show no enhancement.
_LOW_GRADE_CORE = (0.68, 0.95)
_LOW_GRADE_ENHANCING = 0.5
_LOW_GRADE_UPTAKE = (0.4, 0.8)


@dataclass(frozen=True)
class Population:
    """The distribution of one hospital's patients.

    Attributes
    ----------
    radius_mm : tuple of float
        Range of the mean radius of the whole tumour, oedema included.
    non_enhancing : float
        Share of high-grade tumours that have no enhancing rim, in [0, 1].
    hyperintensities : tuple of int
        Inclusive range of the number of white-matter hyperintensities, which look like oedema and are not labelled.
    cavities : float
        Share of patients with a resection cavity (only releases with label 4), in [0, 1].
    low_grade : float
        Share of patients with a low-grade glioma, in [0, 1]: a large core without necrosis and little oedema. Half of
        them have patches that enhance faintly, the others have no enhancement.
    core : tuple of float
        Range of the radius of a high-grade tumour's core (everything but oedema), relative to the whole tumour.
    uptake : tuple of float
        Range of a high-grade rim's uptake of contrast agent, see `Lesion`.
    multifocal : float
        Share of patients with a second, smaller focus away from the first, in [0, 1].
    frontal : float or None
        Share of tumours whose seed lies in the front half of the brain; None leaves this to the anatomy.
    variation : float
        Standard deviation, over patients, of the logarithm of each diseased tissue's T1 and T2.
    """

    radius_mm: tuple[float, float]
    non_enhancing: float
    hyperintensities: tuple[int, int]
    cavities: float = 0.0
    low_grade: float = 0.0
    core: tuple[float, float] = (0.52, 0.68)
    uptake: tuple[float, float] = (1.0, 1.0)
    multifocal: float = 0.0
    frontal: float | None = None
    variation: float = 0.0

    @property
    def weakest_uptake(self) -> float:
        """Smallest possible uptake of a patient's rim."""
        return min(self.uptake[0], _LOW_GRADE_UPTAKE[0]) if self.low_grade > 0 else self.uptake[0]


@dataclass(frozen=True)
class Lesion:
    """One patient's disease: Boolean masks of shape (X, Y, Z), disjoint except for `hyperintensity` (tumour wins).

    Contrast agent multiplies the rim's T1 by the scanner's `enhancement` to the power of `uptake`. If a diseased tissue
    has `factors`, its T1 and T2 in this patient are the representative values times these two factors.
    """

    oedema: NDArray[np.bool_]
    core: NDArray[np.bool_]
    necrosis: NDArray[np.bool_]
    rim: NDArray[np.bool_]
    cavity: NDArray[np.bool_]
    hyperintensity: NDArray[np.bool_]
    uptake: float = 1.0
    factors: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class _Focus(NamedTuple):
    """One focus: masks of the whole tumour, its core (without oedema), and the core's necrosis and enhancing rim."""

    tumour: NDArray[np.bool_]
    core: NDArray[np.bool_]
    necrosis: NDArray[np.bool_]
    rim: NDArray[np.bool_]


def random_lesion(rng: np.random.Generator, anatomy: Anatomy, population: Population, spacing_mm: float) -> Lesion:
    """Draw one patient's disease: nested noisy ellipsoids grown from a seed in deep white matter (our choice)."""
    brain = anatomy.brain
    depth_mm = distance_to_edge(brain, brain) * spacing_mm
    radius = rng.uniform(*population.radius_mm)
    # Draw only what the population can have, so that its patients stay the same when other populations gain features.
    low_grade = population.low_grade > 0 and rng.random() < population.low_grade
    uptake_range = _LOW_GRADE_UPTAKE if low_grade else population.uptake
    uptake = rng.uniform(*uptake_range) if uptake_range[0] < uptake_range[1] else uptake_range[0]
    factors = {}
    if population.variation > 0:
        drawn = np.exp(rng.normal(0, population.variation, (len(_DISEASED), 2)))
        factors = {tissue: (float(t1), float(t2)) for tissue, (t1, t2) in zip(_DISEASED, drawn, strict=True)}
    where = np.ones_like(brain)
    if population.frontal is not None:
        where = _half(brain, front=rng.random() < population.frontal)
    places = where & (depth_mm > 0.6 * radius) & (anatomy.wm > 0.5)
    if not places.any():
        places = depth_mm >= depth_mm.max() - spacing_mm
    seed = _one_of(rng, places)
    foci = [_focus(rng, anatomy, population, seed, radius, low_grade, spacing_mm)]

    cavity = np.zeros_like(brain)
    if rng.random() < population.cavities:
        offset = rng.normal(size=3)
        centre = seed + offset / np.linalg.norm(offset) * radius * 0.5 / spacing_mm
        hole = _noisy_ellipsoid(rng, brain.shape, centre, 0.45 * radius, spacing_mm)
        cavity = brain & (hole < 1.0)
    if population.multifocal > 0 and rng.random() < population.multifocal:
        smaller = radius * rng.uniform(*_SECOND_FOCUS)
        places = ~foci[0].tumour & (depth_mm > 0.6 * smaller) & (anatomy.wm > 0.5)
        if places.any():
            second = _one_of(rng, places)
            foci.append(_focus(rng, anatomy, population, second, smaller, low_grade, spacing_mm))

    tumour, core, necrosis, rim = (np.zeros_like(brain) for _ in range(4))
    for focus in foci:  # if cores overlap, the first one wins
        necrosis |= focus.necrosis & ~core
        rim |= focus.rim & ~core
        tumour |= focus.tumour
        core |= focus.core
    keep = ~cavity
    return Lesion(
        oedema=tumour & ~core & keep,
        core=core & ~necrosis & ~rim & keep,
        necrosis=necrosis & keep,
        rim=rim & keep,
        cavity=cavity,
        hyperintensity=_hyperintensities(rng, anatomy, population, spacing_mm) & ~tumour & keep,
        uptake=uptake,
        factors=factors,
    )


def _focus(
    rng: np.random.Generator,
    anatomy: Anatomy,
    population: Population,
    seed: NDArray[np.integer],
    radius: float,
    low_grade: bool,
    spacing_mm: float,
) -> _Focus:
    """Grow one focus of `radius` mm around a voxel."""
    brain = anatomy.brain
    level = _noisy_ellipsoid(rng, brain.shape, seed, radius, spacing_mm)
    inside = brain & (anatomy.csf < 0.7)
    tumour = inside & (level < 1.0)
    core_level = rng.uniform(*(_LOW_GRADE_CORE if low_grade else population.core))
    core = inside & (level < core_level)
    none = np.zeros_like(brain)
    if low_grade:
        enhancing = rng.random() < _LOW_GRADE_ENHANCING
        patches = smooth_noise(rng, brain.shape, _PATCH_MM / spacing_mm) > 1.3
        return _Focus(tumour, core, none, core & patches if enhancing else none)
    enhancing = rng.random() >= population.non_enhancing
    necrosis = core & (level < core_level * rng.uniform(0.45, 0.7)) if enhancing else none
    rim_all = core & ~necrosis if enhancing else none
    # Part of the solid tumour does not enhance: real rims are rarely closed.
    patchy = smooth_noise(rng, brain.shape, _PATCH_MM / spacing_mm) > 1.3
    return _Focus(tumour, core, necrosis, rim_all & ~patchy)


def _half(brain: NDArray[np.bool_], front: bool) -> NDArray[np.bool_]:
    """Return the front or back half of the volume, divided midway between the brain's first and last voxel."""
    filled = np.flatnonzero(brain.any((0, 2)))
    half = np.zeros_like(brain)
    middle = (filled[0] + filled[-1] + 1) // 2
    half[:, slice(middle, None) if front else slice(middle)] = True
    return half


def _one_of(rng: np.random.Generator, places: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Draw one voxel of a mask."""
    found = np.argwhere(places)
    return np.asarray(found[rng.integers(len(found))])


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
