"""Canaries: patients with planted lesions of unique shapes, which an attack then tries to find.

The idea is that of arXiv 1802.08232. Shapes are drawn at random; some are planted in training patients, and others from
the same distribution are not. An attack that finds planted shapes better than the others in the data that leave a
hospital has identified a patient.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.preprocess import CaseArrays

_RADII = (4.0, 7.0)  # voxels of the working grid
_LOBES = (3, 8)
_DEPTH = 0.45  # of the lobes, relative to the radius
_SLICES = 8


def star(shape: tuple[int, int], centre: tuple[float, float], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a star with a random number, depth and direction of lobes, stretched at random, as a mask (X, Y).

    Its radius is r₀ (1 + d cos(nθ + φ)), unlike that of any lesion.
    """
    x, y = np.meshgrid(*(np.arange(n) - c for n, c in zip(shape, centre, strict=True)), indexing="ij")
    turn, stretch = rng.uniform(0, math.pi), rng.uniform(0.7, 1.4)
    u, v = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    u, v = u * stretch, v / stretch
    lobes, phase = rng.integers(*_LOBES, endpoint=True), rng.uniform(0, 2 * math.pi)
    edge = rng.uniform(*_RADII) * (1 + rng.uniform(0.5, 1) * _DEPTH * np.cos(lobes * np.arctan2(v, u) + phase))
    return np.asarray(np.hypot(u, v) <= edge)


def plant(cached: CachedCase, rng: np.random.Generator) -> tuple[CachedCase, NDArray[np.uint8]]:
    """Return a case with a star planted beside its own lesion, and the masks (3, X, Y, Z) of the star alone.

    The star spans a few neighbouring slices at a random position in the brain, away from the case's own lesion if
    possible. Its voxels get the mean intensities of the case's enhancing tumour, or otherwise of its tumour, and belong
    to all three regions. In a case without tumour, they get 2 in every modality, as a bright lesion might have.
    """
    image = np.array(cached.prepared.image, np.float32)
    mask = np.array(cached.prepared.mask)
    brain = (image != 0).any(0)
    area = brain.sum((0, 1))
    free = area * ~mask.any((0, 1, 2))
    room = [free[z : z + _SLICES].sum() for z in range(brain.shape[2] - _SLICES + 1)]
    first = int(np.argmax(room)) if any(room) else int(np.argmax(area)) - _SLICES // 2
    slices = slice(max(first, 0), max(first, 0) + _SLICES)
    middle = brain[..., slices].all(2)
    places = np.argwhere(middle if middle.any() else brain.any(2))
    away = np.abs(places - places.mean(0)).max(1)
    inner = places[away <= max(0.7 * away.max(), away.min())]
    centre = inner[rng.integers(len(inner))]
    planted = star(brain.shape[:2], (float(centre[0]), float(centre[1])), rng)[..., None] & brain
    planted[..., : slices.start] = False
    planted[..., slices.stop :] = False
    tumour = next((region.astype(bool) for region in (mask[2], mask[1]) if region.any()), None)
    contrast = np.full(len(image), 2.0) if tumour is None else image[:, tumour].mean(1)
    image[:, planted] = contrast[:, None]
    alone = np.repeat(planted[None], len(mask), 0).astype(np.uint8)
    prepared = CaseArrays.showing(cached.prepared, image.astype(np.float16), np.maximum(mask, alone))
    case = replace(cached.case, name=f"{cached.case.name}-canary", patient=f"{cached.case.patient}-canary")
    return CachedCase(case, prepared), alone
