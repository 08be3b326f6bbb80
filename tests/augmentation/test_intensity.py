"""Intensity augmentations, compared with NumPy and SciPy one sample and channel at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from fedserdiff.augmentation.batch import Channels, Parameters, apply

GRIDS = [(24, 32), (16, 20, 12)]
ROWS = torch.tensor([0, 2, 5])  # of two samples of three channels
VALUES = torch.tensor([0.8, 1.3, 0.6])


def scans(grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 3, *grid) that are 0 outside of a box, with masks."""
    image = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(0)) + 0.3
    box = torch.zeros(grid)
    box[tuple(slice(3, n - 2) for n in grid)] = 1
    return image * box, (torch.rand(2, 2, *grid, generator=torch.Generator().manual_seed(1)) < 0.2).float() * box


def changed(grid: tuple[int, ...], parameters: Parameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Channels before and after, (6, *grid), having seen that nothing else changed."""
    image, truth = scans(grid)
    before = image.clone()
    after, masks = apply(image, truth, parameters)
    assert torch.equal(image, before), "apply writes into what it is given"
    assert torch.equal(masks, truth)
    assert after.dtype == torch.float32
    assert torch.equal((after != 0).any(1), (before != 0).any(1)), "the brain is another"
    old, new = before.flatten(0, 1), after.flatten(0, 1)
    others = [row for row in range(6) if row not in ROWS.tolist()]
    assert torch.equal(old[others], new[others])
    return old.double().numpy(), new.double().numpy()


@pytest.mark.parametrize("grid", GRIDS)
def test_brightness_is_a_factor(grid: tuple[int, ...]) -> None:
    old, new = changed(grid, Parameters(brightness=Channels(ROWS, VALUES)))
    for row, factor in zip(ROWS.tolist(), VALUES.tolist(), strict=True):
        np.testing.assert_allclose(new[row], factor * old[row], rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_contrast_stretches_about_the_brains_mean_within_its_range(grid: tuple[int, ...]) -> None:
    old, new = changed(grid, Parameters(contrast=Channels(ROWS, VALUES)))
    for row, factor in zip(ROWS.tolist(), VALUES.tolist(), strict=True):
        brain = old[row] != 0
        was = old[row][brain]
        expected = np.clip((was - was.mean()) * factor + was.mean(), was.min(), was.max())
        np.testing.assert_allclose(new[row][brain], expected, atol=1e-5)
        assert not new[row][~brain].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_gamma_is_a_power_of_the_share_of_the_range_with_mean_and_deviation_kept(grid: tuple[int, ...]) -> None:
    signs = [1.0, -1.0, -1.0]
    old, new = changed(grid, Parameters(gamma=Channels(ROWS, VALUES), sign=torch.tensor(signs)))
    for row, gamma, sign in zip(ROWS.tolist(), VALUES.tolist(), signs, strict=True):
        brain = old[row] != 0
        was = sign * old[row][brain]
        raised = ((was - was.min()) / (was.max() - was.min())) ** gamma
        expected = sign * ((raised - raised.mean()) / raised.std() * was.std() + was.mean())
        np.testing.assert_allclose(new[row][brain], expected, atol=1e-4)
        assert new[row][brain].mean() == pytest.approx(old[row][brain].mean(), abs=1e-4)
        assert new[row][brain].std() == pytest.approx(old[row][brain].std(), rel=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_blur_is_scipys_gaussian_filter_with_weights_that_sum_to_1_at_the_grids_border(grid: tuple[int, ...]) -> None:
    old, new = changed(grid, Parameters(blur=Channels(ROWS, VALUES)))
    for row, deviation in zip(ROWS.tolist(), VALUES.tolist(), strict=True):
        brain = old[row] != 0
        blurred, weights = (
            ndimage.gaussian_filter(one, deviation, mode="constant", truncate=8) for one in (old[row], np.ones(grid))
        )
        np.testing.assert_allclose(new[row][brain], (blurred / weights)[brain], atol=1e-5)
        np.testing.assert_allclose(weights[tuple(n // 2 for n in grid)], 1, atol=1e-4)  # inside it is the filter itself


@pytest.mark.parametrize("grid", GRIDS)
def test_low_resolution_is_torchs_interpolation_there_and_back(grid: tuple[int, ...]) -> None:
    shares = torch.tensor([0.5, 0.77, 1.0])
    old, new = changed(grid, Parameters(resolution=Channels(ROWS, shares)))
    for row, share in zip(ROWS.tolist(), shares.tolist(), strict=True):
        fewer = tuple(round(n * share) for n in grid)
        coarse = functional.interpolate(torch.from_numpy(old[row])[None, None], fewer, mode="nearest-exact")
        linear = "bilinear" if len(grid) == 2 else "trilinear"
        expected = functional.interpolate(coarse, grid, mode=linear)[0, 0].numpy() * (old[row] != 0)
        np.testing.assert_allclose(new[row], expected, atol=1e-5)
    np.testing.assert_array_equal(new[5], old[5])


def test_noise_has_its_variance_and_no_mean() -> None:
    grid = (64, 80)
    noise = torch.randn(3, *grid, generator=torch.Generator().manual_seed(5))
    deviation = torch.tensor([0.02, 0.1, 0.3])
    old, new = changed(grid, Parameters(deviation=Channels(ROWS, deviation), noise=noise))
    for row, sd in zip(ROWS.tolist(), deviation.tolist(), strict=True):
        added = (new - old)[row][old[row] != 0]
        assert added.var() == pytest.approx(sd**2, rel=0.06)
        assert abs(added.mean()) < 4 * sd / added.size**0.5
        assert not new[row][old[row] == 0].any()


def test_a_missing_modality_is_0_and_the_brain_stays() -> None:
    image, truth = scans((24, 32))
    image[0, 0, 10, 10:20] = image[0, 1, 10, 10:20] = 0.0  # there the third alone says that it is brain
    after, _ = apply(image, truth, Parameters(missing=torch.tensor([2])))
    brain = (image != 0).any(1)
    assert torch.equal((after != 0).any(1), brain)
    assert float(after[0, 2].abs().max()) < 1e-4
    assert torch.equal(after[0, :2, 12:20], image[0, :2, 12:20])
    assert torch.equal(after[1], image[1])


def test_a_slice_without_brain_stays_empty() -> None:
    image, truth = torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)
    which = Channels(torch.tensor([0, 1]), torch.tensor([0.7, 0.9]))
    everything = Parameters(
        blur=which, brightness=which, contrast=which, resolution=which, gamma=which, sign=torch.ones(2),
        deviation=which, noise=torch.ones(2, 8, 8),
    )  # fmt: skip
    assert torch.equal(apply(image, truth, everything)[0], image)
