from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.privacy.maps import contours, distance_test, nearness


def blobs(patients: int, seed: int) -> list[torch.Tensor]:
    """Three smooth random items a patient."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(patients, 3, 3, 16, 16, generator=rng)
    return list(torch.nn.functional.avg_pool2d(noise.flatten(0, 1), 5, 1, 2).reshape(noise.shape))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_contour_is_what_touches_the_outside(dims: int) -> None:
    truth = torch.zeros(1, 3, *(7,) * dims)
    truth[(0, 0, *(slice(2, 5),) * dims)] = 1
    expected = truth.clone()
    expected[(0, 0, *(3,) * dims)] = 0
    assert torch.equal(contours(truth), expected)


def test_nearness_is_the_best_cosine_mirrored_or_not() -> None:
    patients = blobs(3, 0)
    shared = torch.cat([2 * patients[0][1:2], patients[2][2:3].flip(2)])
    near = nearness(shared, patients)
    assert near[0, 0] == pytest.approx(1, abs=1e-6)
    assert near[1, 2] == pytest.approx(1, abs=1e-6)
    own, items = shared[0].flatten().double(), [*patients[1], *patients[1].flip(2)]
    cosines = [float(own @ i.flatten().double() / own.norm() / i.double().norm()) for i in items]
    assert near[0, 1] == pytest.approx(max(cosines), abs=1e-6)


def test_an_empty_map_is_near_to_nobody() -> None:
    assert not nearness(torch.zeros(1, 3, 16, 16), blobs(2, 0)).any()


def distances(to: NDArray[np.float64], size: int) -> float:
    """Mean distance to the nearest, over every choice of as many patients."""
    choices = list(combinations(range(to.shape[1]), size))
    return float(np.mean([(1 - to[:, list(choice)].max(1)).mean() for choice in choices]))


def test_the_ratio_compares_groups_of_the_same_size() -> None:
    rng = np.random.default_rng(0)
    training, held_out = rng.random((5, 7)), rng.random((5, 3))
    found = distance_test(training, held_out, np.random.default_rng(0)).ratio
    assert found.value == pytest.approx(distances(training, 3) / distances(held_out, 3))


def test_copies_are_found_and_strangers_are_not() -> None:
    """The positive and the negative control of the attack on error maps."""
    training, held_out, strangers = blobs(8, 1), blobs(8, 2), blobs(20, 3)
    noise = 0.02 * torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    copies = torch.stack([items[0] for items in training]) + noise
    rng = np.random.default_rng(0)
    leaking = distance_test(nearness(copies, training), nearness(copies, held_out), rng)
    assert leaking.ratio.high is not None
    assert leaking.ratio.high < 1
    assert leaking.p_value < 0.01
    never = torch.cat(strangers)
    honest = distance_test(nearness(never, training), nearness(never, held_out), rng)
    assert honest.ratio.low is not None
    assert honest.ratio.high is not None
    assert honest.ratio.low < 1 < honest.ratio.high
    assert 0.05 < honest.p_value < 0.95
