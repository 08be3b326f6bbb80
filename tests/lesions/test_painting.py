"""Painted samples have what the brush asks for, and nothing else changes."""

import numpy as np
import pytest
import torch
from painted import MEANS, moments
from scipy import ndimage

from fedserdiff.lesions.brush import Brush, Painter, whitening
from fedserdiff.lesions.painting import paint

TC, WT, ET = range(3)
GRIDS = pytest.mark.parametrize("grid", [(40, 40), (24, 24, 24)])


def brush(shape: tuple[int, ...], seed: int = 0, of: dict[str, torch.Tensor] | None = None) -> Brush:
    return Painter(of or moments(), 2.0).draw(
        shape, torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    )


def samples(grid: tuple[int, ...], lesion: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Two brains of noise with mean 1 and deviation 2, and a box of oedema in each."""
    noise = torch.Generator().manual_seed(1)
    brain = tuple(slice(2, n - 2) for n in grid)
    box = tuple(slice(n // 4, n // 4 + n // 2) for n in grid)
    image, truth = torch.zeros(2, 4, *grid), torch.zeros(2, 3, *grid)
    image[(..., *brain)] = 1 + 2 * torch.randn(image[(..., *brain)].shape, generator=noise)
    if lesion:
        truth[(slice(None), WT, *box)] = 1
    return image, truth


def test_nothing_but_the_lesion_changes_and_its_outline_stays() -> None:
    image, truth = samples((40, 40))
    painted, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    assert torch.equal(mask[:, WT], truth[:, WT])
    elsewhere = (truth[:, WT] == 0)[:, None].expand_as(image)
    assert torch.equal(painted[elsewhere], image[elsewhere])
    assert (painted != image)[~elsewhere].float().mean() > 0.95


@GRIDS
def test_regions_are_nested_and_as_large_as_the_brush_says(grid: tuple[int, ...]) -> None:
    image, truth = samples(grid)
    _, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    assert (mask[:, ET] <= mask[:, TC]).all()
    assert (mask[:, TC] <= mask[:, WT]).all()
    sizes = mask.flatten(2).sum(2)
    assert sizes[:, TC] / sizes[:, WT] == pytest.approx(np.array([0.5, 0.5]), abs=0.02)
    assert sizes[:, ET] / sizes[:, WT] == pytest.approx(np.array([0.3, 0.3]), abs=0.02)


@GRIDS
def test_enhancing_tumour_is_a_rim_about_the_necrosis(grid: tuple[int, ...]) -> None:
    image, truth = samples(grid)
    _, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    positions = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")).float()
    centre = torch.tensor([n // 2 - 0.5 for n in grid]).reshape(-1, *[1] * len(grid))
    away = (positions - centre).abs().amax(0)
    necrosis = (mask[:, TC] - mask[:, ET]).bool()
    for number in range(2):
        oedema = (mask[number, WT] - mask[number, TC]).bool()
        assert away[necrosis[number]].mean() < away[mask[number, ET].bool()].mean() < away[oedema].mean()


@GRIDS
def test_painted_classes_look_as_the_moments_say_relative_to_healthy_tissue(grid: tuple[int, ...]) -> None:
    """Healthy tissue has mean 1 and deviation 2. The lesion's own edge is soft."""
    image, truth = samples(grid)
    painted, mask = paint(image, truth, brush(image.shape), whitening(torch.eye(4).repeat(3, 1, 1)))
    inner = torch.from_numpy(np.stack([ndimage.binary_erosion(whole) for whole in mask[:, WT].numpy()]))
    oedema = (mask[:, WT] - mask[:, TC]).bool()
    necrosis = (mask[:, TC] - mask[:, ET]).bool()
    for region, where in ((WT, oedema), (TC, necrosis), (ET, mask[:, ET].bool())):
        values = painted.transpose(0, 1)[:, where & inner]
        assert values.median(1).values == pytest.approx((1 + 2 * MEANS[region]).numpy(), abs=0.5)


def test_texture_gets_the_covariance_of_the_painted_class() -> None:
    """White noise of a lesion that the hospital knows to be white becomes noise whose channels 1 and 2 are one."""
    image, truth = samples((96, 96))
    within = 0.25 * torch.eye(4)
    within[1, 2] = within[2, 1] = 0.25
    alone = torch.tensor([[0.0, 0, 0, 0.9], [1, 0, 0, 0.2], [0, 0, 0, 0.6]])  # oedema, and nothing else
    of = moments(within=within.repeat(3, 1, 1), extent=alone)
    painted, mask = paint(image, truth, brush(image.shape, of=of), whitening(torch.eye(4).repeat(3, 1, 1)))
    assert not mask[:, [TC, ET]].any()
    inner = (slice(30, 66), slice(30, 66))
    relative = ((painted[(0, slice(None), *inner)] - 1) / 2).flatten(1)
    assert torch.cov(relative).numpy() == pytest.approx(within.numpy(), abs=0.05)


@GRIDS
def test_a_sample_without_a_lesion_gets_one_in_its_brain(grid: tuple[int, ...]) -> None:
    image, truth = samples(grid, lesion=False)
    painted, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    assert (mask[:, WT].flatten(1).sum(1) > 12).all()
    brain = (image != 0).any(1)
    assert not mask.any(1)[~brain].any()
    assert torch.equal(painted[~brain[:, None].expand_as(image)], image[~brain[:, None].expand_as(image)])


def test_balls_in_healthy_tissue_have_the_radius_that_patients_have() -> None:
    """12 mm at 2 mm a voxel: about 6 voxels, a disc of 113, less where the brain ends and as borders are bumpy."""
    image, truth = samples((80, 80), lesion=False)
    sizes = [
        float(paint(image, truth, brush(image.shape, seed), whitening(torch.zeros(3, 4, 4)))[1][:, WT].sum()) / 2
        for seed in range(10)
    ]
    assert np.mean(sizes) == pytest.approx(np.pi * 6**2, rel=0.25)


def test_a_sample_without_a_brain_stays_as_it_is() -> None:
    image, truth = torch.zeros(2, 4, 20, 20), torch.zeros(2, 3, 20, 20)
    painted, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    assert not painted.any()
    assert not mask.any()


def test_a_lesion_of_a_few_voxels_stays_beside_the_one_that_is_placed() -> None:
    image, truth = samples((40, 40), lesion=False)
    truth[:, :, 20, 20:23] = 1
    painted, mask = paint(image, truth, brush(image.shape), whitening(torch.zeros(3, 4, 4)))
    assert mask[:, :, 20, 20:23].all()
    assert torch.equal(painted[:, :, 20, 20:23], image[:, :, 20, 20:23])


def test_an_absent_class_is_painted_in_no_sample() -> None:
    extent = moments()["extent"][0].clone()
    extent[ET] = 0
    image, truth = samples((40, 40))
    _, mask = paint(image, truth, brush(image.shape, of=moments(extent=extent)), whitening(torch.zeros(3, 4, 4)))
    assert not mask[:, ET].any()
    assert mask[:, TC].any()


def test_classes_are_there_as_often_as_patients_have_them() -> None:
    extent = moments()["extent"][0].clone()
    extent[ET, 0] = 0.3
    drawn = brush((4000, 4, 8, 8), of=moments(extent=extent))
    assert float((drawn.end > drawn.begin)[:, ET].float().mean()) == pytest.approx(0.3, abs=0.03)
    assert (drawn.end.amax(1) - 1).abs().max() < 1e-5


def test_patients_differ_by_the_covariance_between_them() -> None:
    between = torch.diag(torch.tensor([1.0, 0, 0, 4])).repeat(3, 1, 1)
    drawn = brush((4000, 4, 8, 8), of=moments(between=between))
    assert torch.cov(drawn.means[:, ET].T).diagonal().numpy() == pytest.approx([1, 0, 0, 4], abs=0.25)


def test_hospitals_are_drawn_by_their_patients_and_never_one_that_shared_nothing() -> None:
    hospitals = [moments(30), moments(0), moments(10)]
    hospitals[1]["means"] += 100
    hospitals[2]["means"] += 50
    of = {name: torch.cat([hospital[name] for hospital in hospitals]) for name in hospitals[0]}
    means = brush((4000, 4, 8, 8), of=of).means[:, WT, 0]
    assert float((means > 75).float().mean()) == 0
    assert float((means > 25).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_a_brush_repeats_with_its_generators() -> None:
    one, same, other = (brush((2, 4, 16, 16), seed) for seed in (3, 3, 4))
    assert torch.equal(one.rim, same.rim)
    assert torch.equal(one.end, same.end)
    assert not torch.equal(one.rim, other.rim)


def test_moments_that_are_no_covariance_do_no_harm() -> None:
    """A coordinator sends what it likes: the largest negative variances, say."""
    of = moments(within=-30 * torch.eye(4).repeat(3, 1, 1), between=-30 * torch.ones(3, 4, 4))
    image, truth = samples((40, 40))
    painted, mask = paint(image, truth, brush(image.shape, of=of), whitening(torch.zeros(3, 4, 4)))
    assert painted.isfinite().all()
    assert mask[:, WT].any()


def test_nobodys_moments_paint_nothing() -> None:
    assert Painter(moments(0), 2.0).earlier_patients == 0
    assert Painter(moments(5), 2.0).earlier_patients == 5
