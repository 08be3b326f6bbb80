from dataclasses import replace

import numpy as np
import pytest
import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.preprocess import CaseArrays
from fedserdiff.privacy.canaries import plant, star
from sites.hospital import Hospital


def first_case(hospital: Hospital) -> CachedCase:
    return hospital.training[0]


def test_a_star_is_one_shape_around_its_centre_and_no_two_are_alike() -> None:
    stars = [star((48, 64), (24.0, 32.0), np.random.default_rng(seed)) for seed in range(6)]
    for one in stars:
        assert one[24, 32]
        assert 10 < one.sum() < 48 * 64 / 8
    pairs = [(a & b).sum() / (a | b).sum() for n, a in enumerate(stars) for b in stars[:n]]
    assert max(pairs) < 0.95


def test_a_planted_star_is_in_image_and_truth_and_spoils_no_lesion(hospital: Hospital) -> None:
    before = first_case(hospital)
    after, alone = plant(before, np.random.default_rng(0))
    where = alone.astype(bool)
    assert where.any()
    assert np.array_equal(np.asarray(after.prepared.mask, bool), np.asarray(before.prepared.mask, bool) | where)
    old, new = (np.asarray(c.prepared.image, np.float32) for c in (before, after))
    voxels = where.any(0)
    assert np.array_equal(old[:, ~voxels], new[:, ~voxels])
    assert np.ptp(new[:, voxels], axis=1).max() == 0  # one contrast
    assert (old != 0).any(0)[voxels].all()  # inside the brain
    assert after.case.patient != before.case.patient


def test_the_same_seed_plants_the_same_star(hospital: Hospital) -> None:
    planted = [plant(first_case(hospital), np.random.default_rng(seed))[1] for seed in (0, 0, 1)]
    assert np.array_equal(planted[0], planted[1])
    assert not np.array_equal(planted[0], planted[2])


@pytest.mark.parametrize("region", [0, 1, 2])
def test_all_regions_hold_the_star(hospital: Hospital, region: int) -> None:
    _, alone = plant(first_case(hospital), np.random.default_rng(0))
    assert torch.equal(torch.from_numpy(alone[region]), torch.from_numpy(alone[0]))


def test_a_brain_of_two_voxels_on_its_middle_slices_has_room_for_a_star(hospital: Hospital) -> None:
    before = first_case(hospital)
    image = np.zeros_like(before.prepared.image)
    image[:, 12:14, 16, 8:16] = 1
    small = replace(before, prepared=CaseArrays.showing(before.prepared, image, np.zeros_like(before.prepared.mask)))
    after, alone = plant(small, np.random.default_rng(0))
    assert alone.any()
    assert np.array_equal(after.prepared.mask, alone)
    assert not alone[:, ~(image != 0).any(0)].any()
