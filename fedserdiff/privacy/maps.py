"""A test of whether shared error maps look more like a hospital's training patients than like held-out patients."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import comb

from fedserdiff.evaluation.bootstrap import Interval

_REPLICATES = 1000


def contours(truth: torch.Tensor) -> torch.Tensor:
    """Return the contours of 0/1 masks of shape (N, 3, *grid): the voxels of a region that touch its outside."""
    pool = F.max_pool2d if truth.ndim == 4 else F.max_pool3d
    outside = 1 - truth
    return truth * pool(outside, 3, 1, 1)


def nearness(shared: torch.Tensor, by_patient: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    """Return the nearness of each shared sample to each patient: its best cosine with any of the patient's items.

    A mirrored item counts as well, because training mirrors half of its batches. The cosine is our choice: it does not
    depend on scale, so neither an empty map nor a small lesion is near to everything.

    Parameters
    ----------
    shared : Tensor of shape (M, C, *grid)
    by_patient : iterable of Tensor of shape (N, C, *grid)
        Items of each patient, at least one.

    Returns
    -------
    array of float64 of shape (M, patients)
        Values in [−1, 1]; an item that is 0 everywhere has nearness 0 to every sample.
    """
    own = _directions(shared)
    found = []
    for items in by_patient:
        both = torch.cat([_directions(items), _directions(items.flip(2))])
        found.append((own @ both.T).amax(1))
    return torch.stack(found, 1).double().cpu().numpy()


def _directions(items: torch.Tensor) -> torch.Tensor:
    return F.normalize(items.float().flatten(1), dim=1)


@dataclass(frozen=True)
class DistanceTest:
    """Nearest-neighbour distances of shared samples to training patients and to held-out ones.

    Attributes
    ----------
    ratio : Interval
        Mean distance to the nearest training patient, divided by that to the nearest of as many held-out ones: 1 if
        samples are not nearer to training patients, below 1 if they are. With a 95 % interval over patients.
    p_value : float
        One-sided two-sample permutation test: how often random groups of all patients have a ratio as low.
    """

    ratio: Interval
    p_value: float


def distance_test(
    to_training: NDArray[np.float64], to_held_out: NDArray[np.float64], rng: np.random.Generator
) -> DistanceTest:
    """Compare the distances 1 − nearness to two groups of patients, given `nearness` of shapes (M, patients).

    The nearest of many patients is nearer than the nearest of few. For the larger group, the mean is therefore taken
    over all subsets of the smaller group's size.
    """
    size = min(to_training.shape[1], to_held_out.shape[1])

    def ratio(training: NDArray[np.float64], held_out: NDArray[np.float64]) -> float:
        return _distance(training, size) / max(_distance(held_out, size), 1e-12)

    def resampled(group: NDArray[np.float64]) -> NDArray[np.float64]:
        alike = rng.permutation(group.shape[1])[:size]  # same share of repeats in both groups
        return group[:, rng.choice(alike, size)]

    value = ratio(to_training, to_held_out)
    everyone, own = np.hstack([to_training, to_held_out]), to_training.shape[1]
    permuted = []
    for _ in range(_REPLICATES):
        order = rng.permutation(everyone.shape[1])
        permuted.append(ratio(everyone[:, order[:own]], everyone[:, order[own:]]))
    p_value = (1 + int((np.array(permuted) <= value).sum())) / (1 + _REPLICATES)
    if size < 2:
        return DistanceTest(Interval(value, None, None), p_value)
    drawn = [ratio(resampled(to_training), resampled(to_held_out)) for _ in range(_REPLICATES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return DistanceTest(Interval(value, float(low), float(high)), p_value)


def _distance(near: NDArray[np.float64], size: int) -> float:
    """Return the mean distance of samples to the nearest of `size` patients, over all subsets of that size."""
    patients = near.shape[1]
    place = np.arange(1, patients + 1)  # this place is nearest in C(place − 1, size − 1) subsets
    chance = comb(place - 1, size - 1) / comb(patients, size)
    return float((1 - np.sort(near, axis=1) @ chance).mean())
