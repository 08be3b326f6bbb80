"""A student of patches segments a larger grid window by window, blended by Gaussians."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from students import lively_student

from fedserdiff.diffusion import inference
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings

GRIDS = [
    (2, (8, 12), (19, 30, 3)),
    (2, (16, 24), (17, 24, 2)),
    (3, (8, 8, 8), (13, 8, 21)),
    (3, (8, 12, 8), (16, 24, 16)),
]
"""Dimensions, patch and grid: the grid is a multiple of the patch along some axes, and one window wide along others."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(dims: int, patch: tuple[int, ...], grid: tuple[int, ...]) -> Settings:
    own = {"data.spatial_dims": dims, "training.patch": patch, "data.grid": grid, "network.precision": "fp32"}
    return make_settings("smoke", own)


def scan(grid: tuple[int, ...]) -> NDArray[np.float16]:
    return np.random.default_rng(0).standard_normal((4, *grid)).astype(np.float16)


class Pointwise(Student):
    """P is an image's first channels, and Ê a part of the noise: neither knows what window it is in."""

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3]

    def sample(self, context: torch.Tensor, steps: int, noise: torch.Tensor) -> torch.Tensor:
        return 0.01 * noise


@pytest.mark.parametrize(("dims", "patch", "grid"), GRIDS)
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_what_is_the_same_in_all_windows_comes_back(
    dims: int, patch: tuple[int, ...], grid: tuple[int, int, int], overlap: float
) -> None:
    """A constant, and fields that are linear along each axis; every voxel of the grid is in some window."""
    student = Pointwise(settings(dims, patch, grid))
    x, y, z = np.meshgrid(*(np.linspace(0.1, 0.8, n) for n in grid), indexing="ij")
    image = np.stack([np.full(grid, 0.3), x, (y + z) / 2, np.ones(grid)]).astype(np.float16)
    noise = torch.randn(*((1, 3, *grid) if dims == 3 else (grid[2], 3, *grid[:2])), generator=seeded())
    found = predict_volume(student, image, 1, seeded(), overlap=overlap)
    assert torch.allclose(found.coarse, torch.from_numpy(image[:3].astype(np.float32)), atol=1e-5)
    field = noise[0] if dims == 3 else noise.permute(1, 2, 3, 0)
    assert torch.allclose(found.error_map, 0.01 * field, atol=1e-5), "windows start from one noise where they overlap"


class Windowed(Student):
    """P of a window is its mean, everywhere; it is not refined."""

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3].flatten(2).mean(2)[..., None, None].expand(-1, -1, *image.shape[2:])

    def sample(self, context: torch.Tensor, steps: int, noise: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(noise)


def test_windows_are_weighed_by_a_gaussian_about_their_centre() -> None:
    """Three windows of 8 voxels, from 0, 4 and 6 on; nnU-Net's Gaussian, of an eighth of the width."""
    student = Windowed(settings(2, (8, 8), (14, 8, 1)))
    image = np.random.default_rng(1).uniform(0.1, 0.9, (4, 14, 8, 1)).astype(np.float16)
    away = np.arange(8) - 3.5
    bell = np.exp(-(away**2) / 2)
    weight = np.maximum(bell[:, None] * bell, 1e-3)  # of a voxel in a corner is left what can be divided by
    sums, weights = np.zeros((3, 14, 8)), np.zeros((14, 8))
    for start in (0, 4, 6):
        own = image[:3, start : start + 8, :, 0].astype(np.float64).mean((1, 2))
        sums[:, start : start + 8] += own[:, None, None] * weight
        weights[start : start + 8] += weight
    found = predict_volume(student, image, 1, seeded(), overlap=0.5)
    np.testing.assert_allclose(found.coarse[..., 0].numpy(), sums / weights, atol=1e-5)


def test_refined_masks_are_blended_after_each_is_clipped() -> None:
    class Clipped(Windowed):
        def sample(self, context: torch.Tensor, steps: int, noise: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(noise)

    found = predict_volume(
        Clipped(settings(2, (8, 8), (14, 8, 1))), np.full((4, 14, 8, 1), 0.5, np.float16), 1, seeded()
    )
    assert torch.allclose(found.refined, torch.ones(3, 14, 8, 1), atol=1e-6)
    assert torch.allclose(found.error_map, torch.full((3, 14, 8, 1), 0.5), atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_patch_as_large_as_the_grid_is_no_window(dims: int) -> None:
    grid = (16, 24, 16)
    whole, patch = (lively_student(settings(dims, own, grid)) for own in ((), grid[:dims]))
    image = scan(grid)
    one, other = (predict_volume(student, image, 2, seeded(), flips=True) for student in (whole, patch))
    assert torch.equal(one.coarse, other.coarse)
    assert torch.equal(one.error_map, other.error_map)


@pytest.mark.parametrize(("dims", "patch", "grid"), GRIDS[1:3])
def test_the_result_does_not_depend_on_how_many_windows_are_batched(
    dims: int, patch: tuple[int, ...], grid: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, image = lively_student(settings(dims, patch, grid)), scan(grid)
    usual, again = (predict_volume(student, image, 2, seeded()) for _ in range(2))
    assert torch.equal(usual.refined, again.refined)
    assert not torch.allclose(usual.refined, predict_volume(student, image, 2, seeded(1)).refined, atol=1e-4)
    monkeypatch.setattr(inference, "_LEAST_BATCHES", {"cpu": 1})
    for at_once in (1, 3 * int(np.prod(patch))):
        monkeypatch.setattr(inference, "_VOXELS_AT_ONCE", {"cpu": at_once})
        other = predict_volume(student, image, 2, seeded())
        assert torch.allclose(usual.coarse, other.coarse, atol=1e-5)
        assert torch.allclose(usual.refined, other.refined, atol=1e-5)


def seen_by_networks(student: Student, grid: tuple[int, ...]) -> dict[str, list[int]]:
    """Return how many values reach the middle of each network at a time while a scan is segmented."""
    sizes: dict[str, list[int]] = {"coarse": [], "refiner": []}
    handles = [
        getattr(student, name).unet.middle_block.register_forward_pre_hook(
            lambda module, given, named, own=own: own.append(named["hidden_states"].numel()), with_kwargs=True
        )
        for name, own in sizes.items()
    ]
    predict_volume(student, scan(grid), 2, seeded())
    for handle in handles:
        handle.remove()
    return sizes


def test_networks_see_no_more_at_a_time_on_a_larger_grid() -> None:
    patch, small, large = (16, 16, 16), (48, 32, 48), (48, 64, 64)
    student = lively_student(settings(3, patch, small))
    few, many = (seen_by_networks(student, grid) for grid in (small, large))
    for name in ("coarse", "refiner"):
        assert max(many[name]) == max(few[name])
        assert sum(many[name]) > 2 * sum(few[name]), "there was more to see"


def test_windows_without_brain_cost_nothing_and_those_without_tumour_are_not_refined() -> None:
    grid = (8, 8, 40)
    student = Pointwise(settings(3, (8, 8, 8), grid))
    shown: dict[str, int] = {"segment": 0, "sample": 0}
    for name in shown:
        real = getattr(student, name)

        def counted(first: torch.Tensor, *rest: Any, name: str = name, real: Any = real) -> torch.Tensor:
            shown[name] += len(first)
            found: torch.Tensor = real(first, *rest)
            return found

        setattr(student, name, counted)
    image = np.zeros((4, *grid), np.float16)
    image[3, :, :, :24] = 1  # brain
    image[:3, :, :, 18:20] = 0.5  # tumour, in the windows from 12 and 16 on
    found = predict_volume(student, image, 1, seeded(), overlap=0.5)
    assert shown == {"segment": 6, "sample": 2}  # from 0, 4, …, 20 on
    assert not found.error_map[..., 24:].any()
    assert not found.error_map[..., :12].any()


def test_flips_average_windowed_masks_too() -> None:
    grid = (21, 8, 4)
    student, image = lively_student(settings(2, (8, 8), grid)), scan(grid)
    turned = image[:, ::-1].copy()
    both, mirrored = (predict_volume(student, one, 2, seeded(), flips=True) for one in (image, turned))
    own, other = (predict_volume(student, one, 2, seeded()) for one in (image, turned))
    assert torch.allclose(both.refined, (own.refined + other.refined.flip(1)) / 2, atol=1e-5)
    assert torch.allclose(mirrored.refined.flip(1), both.refined, atol=1e-5)
