from typing import Any

import numpy as np
import pytest
import torch
from students import lively_student
from torch.overrides import TorchFunctionMode

from fedserdiff.diffusion.draws import draw
from fedserdiff.diffusion.inference import REFINED_FROM, predict_volume
from fedserdiff.diffusion.refiner import (
    Prediction,
    drop_context,
    new_student,
    perturb_boundary,
)
from fedserdiff.diffusion.schedule import ddim_step
from fedserdiff.settings.sources import make_settings


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("steps", [1, 3])
def test_prediction_has_the_grid_of_its_image_and_bounded_values(dims: int, steps: int) -> None:
    config = make_settings("smoke", {"data.spatial_dims": dims})
    student = new_student(config)
    image = torch.randn(2, 4, *config.data.grid[:dims], generator=seeded())
    prediction = student.predict(image, steps, student.noise(2, seeded()))
    for field, low in ((prediction.coarse, 0), (prediction.error_map, -1), (prediction.refined, 0)):
        assert field.shape == (2, 3, *config.data.grid[:dims])
        assert field.dtype == torch.float32
        assert low <= float(field.min())
        assert float(field.max()) <= 1


def test_refined_is_the_clipped_sum() -> None:
    one = Prediction(torch.tensor([0.9, 0.2, 0.5]), torch.tensor([0.5, -0.5, 0.25]))
    assert torch.equal(one.refined, torch.tensor([1.0, 0.0, 0.75]))


def test_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(123)
    first = new_student(make_settings("smoke", seed=4)).state_dict()
    torch.manual_seed(321)
    again = new_student(make_settings("smoke", seed=4)).state_dict()
    other = new_student(make_settings("smoke", seed=5)).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_sampling_repeats_with_its_generator_and_depends_on_it() -> None:
    config = make_settings("smoke")
    student = lively_student(config)
    context = student.null_context(2)
    assert context.shape == (2, 10, 16, 24)
    assert not context.any()
    one, again, other = (student.sample(context, 3, student.noise(2, seeded(s))) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_volume_is_predicted_whole_and_empty_slices_stay_empty(dims: int) -> None:
    config = make_settings("smoke", {"data.spatial_dims": dims})
    student = new_student(config)
    image = np.random.default_rng(0).standard_normal((4, *config.data.grid)).astype(np.float16)
    image[..., :3] = 0
    prediction = predict_volume(student, image, 2, seeded())
    assert prediction.refined.shape == (3, *config.data.grid)
    if dims == 2:
        assert not prediction.refined[..., :3].any()
        assert bool(prediction.coarse[..., 3:].all())


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_brain_there_is_no_mask_and_without_tumour_nothing_to_refine(dims: int) -> None:
    config = make_settings("smoke", {"network.precision": "fp32", "data.spatial_dims": dims})
    student = lively_student(config)
    blank = np.zeros((4, *config.data.grid), np.float16)
    assert not predict_volume(student, blank, 2, seeded()).refined.any()
    image = np.random.default_rng(0).standard_normal(blank.shape).astype(np.float16)
    assert predict_volume(student, image, 2, seeded()).error_map.any()
    with torch.no_grad():
        student.coarse.unet.out[2].conv.bias.fill_(-12.0)
    without = predict_volume(student, image, 2, seeded())
    assert 0 < float(without.coarse.max()) < REFINED_FROM
    assert not without.error_map.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_with_flips_probabilities_are_means_of_both_ways_and_left_is_as_right(dims: int) -> None:
    config = make_settings("smoke", {"network.precision": "fp32", "data.spatial_dims": dims})
    student = lively_student(config)
    image = np.random.default_rng(0).standard_normal((4, *config.data.grid)).astype(np.float16)
    turned = image[:, ::-1].copy()  # the first axis is from left to right
    own, other = (predict_volume(student, one, 2, seeded()) for one in (image, turned))
    assert not torch.allclose(own.refined, other.refined.flip(1), atol=1e-2), "else there would be nothing to average"
    both = predict_volume(student, image, 2, seeded(), flips=True)
    assert torch.allclose(both.coarse, (own.coarse + other.coarse.flip(1)) / 2, atol=1e-6)
    assert torch.allclose(both.refined, (own.refined + other.refined.flip(1)) / 2, atol=1e-6)
    again, mirrored = (predict_volume(student, one, 2, seeded(), flips=True) for one in (image, turned))
    assert torch.equal(both.refined, again.refined)
    assert torch.allclose(mirrored.refined.flip(1), both.refined, atol=1e-6)


class _Copies(TorchFunctionMode):
    """Remembers what brings values from a device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item):
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_prediction_comes_to_the_host_once_and_whole(dims: int) -> None:
    config = make_settings("smoke", {"network.precision": "fp32", "data.spatial_dims": dims})
    image = np.random.default_rng(0).standard_normal((4, *config.data.grid)).astype(np.float16)
    with _Copies() as copies:
        predict_volume(lively_student(config), image, 2, seeded())
    x, y, z = config.data.grid
    assert copies.shapes == [(2, z, 3, x, y) if dims == 2 else (2, 1, 3, x, y, z)]


def test_a_slice_is_refined_where_the_coarse_network_sees_tumour_whatever_is_done_with_others() -> None:
    config = make_settings("smoke", {"network.precision": "fp32"})
    student = lively_student(config)
    with torch.no_grad():
        student.coarse.unet.out[2].conv.bias.fill_(-12.0)  # no tumour anywhere, but for what a bright slice does
    image = np.random.default_rng(0).standard_normal((4, *config.data.grid)).astype(np.float16)
    nowhere = predict_volume(student, image, 2, seeded())
    assert float(nowhere.coarse.max()) < REFINED_FROM
    assert not nowhere.error_map.any()
    with torch.no_grad():
        student.coarse.unet.out[2].conv.bias.fill_(0.0)
    everywhere = predict_volume(student, image, 2, seeded())
    assert bool(everywhere.error_map.flatten(0, 2).any(0).all())
    real = student.segment
    student.segment = lambda batch: real(batch) * (batch[:, :1, :1, :1] > 0)  # type: ignore[method-assign]
    some = predict_volume(student, image, 2, seeded())
    shown = torch.from_numpy(image[0, 0, 0] > 0)
    assert 0 < int(shown.sum()) < len(shown)
    assert torch.allclose(some.error_map[..., shown], everywhere.error_map[..., shown], atol=1e-5)
    assert not some.error_map[..., ~shown].any()


def test_sampling_does_not_see_that_the_context_is_convolved_but_once() -> None:
    """DDIM by the student's own denoiser, the whole input at each step."""
    student = lively_student(make_settings("smoke", {"network.precision": "fp32"}))
    context = torch.randn(2, 10, 16, 24, generator=seeded())
    noise = student.noise(2, seeded(1))
    expected = noise
    timesteps = [999, 666, 332]
    for t, t_next in zip(timesteps, [666, 332, None], strict=True):
        with torch.no_grad():
            clean = torch.tanh(student.denoise_features(expected, torch.full((2,), t), context)[0])
        expected = ddim_step(expected, clean, t, t_next)
    assert torch.allclose(student.sample(context, 3, noise), expected, atol=1e-4)


def test_slices_of_a_volume_do_not_depend_on_how_many_are_batched() -> None:
    """The slices' order in the volume is kept: a volume whose slices differ is put back together in place."""
    config = make_settings("smoke", {"network.precision": "fp32", "data.grid": (16, 24, 60)})
    student = lively_student(config)
    image = np.random.default_rng(0).standard_normal((4, *config.data.grid)).astype(np.float16)
    whole = predict_volume(student, image, 1, seeded()).coarse
    for z in (0, 47, 48, 59):
        alone = torch.sigmoid(student.coarse_logits(torch.from_numpy(image[..., z].astype(np.float32))[None]))
        assert torch.allclose(whole[..., z], alone[0], atol=1e-5)


def test_context_dropout_rates_are_the_settings() -> None:
    context = torch.ones(20000, 10, 1, 1)
    rates = new_student(make_settings("smoke")).drop_rates
    dropped = drop_context(context, 3, draw((20000, 3, 1, 1), rates, False, seeded()).keep)
    whole = (dropped.sum((1, 2, 3)) == 0).float().mean()
    kept = dropped[dropped[:, 0, 0, 0] == 1]
    old = (kept[:, 7:].sum((1, 2, 3)) == 0).float().mean()
    assert float(whole) == pytest.approx(0.1, abs=0.01)
    assert float(old) == pytest.approx(0.2, abs=0.01)
    assert bool((kept[:, :7] == 1).all())


@pytest.mark.parametrize("shape", [(2, 3, 32, 40), (1, 3, 16, 24, 16)])
def test_perturbation_moves_boundaries_and_leaves_certain_voxels(shape: tuple[int, ...]) -> None:
    coarse = torch.zeros(shape)
    inside = tuple(slice(n // 4, 3 * n // 4) for n in shape[2:])
    coarse[(slice(None), slice(None), *inside)] = 1
    bumps = draw(shape, (0, 0), True, seeded()).bumps
    assert bumps is not None
    moved = perturb_boundary(coarse, bumps)
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    changed = (moved - coarse).abs() > 0.3
    assert changed.any(), "some boundary voxels must change their side"
    assert float(changed.float().mean()) < 0.25
    corner = (0, 0, *(0,) * (len(shape) - 2))
    centre = (0, 0, *(n // 2 for n in shape[2:]))
    assert float(moved[corner]) < 0.3
    assert float(moved[centre]) > 0.7
