from typing import Any

import pytest
import torch

from fedserdiff.diffusion.image_generator import ImageGenerator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings


def smoke(dims: int = 2, **changes: Any) -> Settings:
    return make_settings("smoke", {"data.spatial_dims": dims, **changes})


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator_of(config: Settings) -> ImageGenerator:
    torch.manual_seed(0)
    return ImageGenerator(config)


def scans(config: Settings, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Brains in the middle of the grid, of z-scores up to about 3, with a tumour in each."""
    grid = config.data.grid[: config.data.spatial_dims]
    brain, tumour = (tuple(slice(n // part, n - n // part) for n in grid) for part in (4, 3))
    image = torch.zeros(count, 4, *grid)
    image[(..., *brain)] = torch.randn(image[(..., *brain)].shape, generator=seeded(3))
    truth = torch.zeros(count, 3, *grid)
    truth[(..., *tumour)] = 1
    return image, truth


class Known(torch.nn.Module):
    """Replaces the network: it gives the same answer to every input."""

    def __init__(self, answer: torch.Tensor) -> None:
        super().__init__()
        self.answer = torch.nn.Parameter(answer)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.answer


def known(config: Settings, answer: torch.Tensor) -> ImageGenerator:
    model = generator_of(config)
    model._network = Known(answer)  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("dims", [2, 3])
def test_loss_is_the_mean_square_of_image_masks_and_brain_on_one_scale(dims: int) -> None:
    config = smoke(dims)
    image, truth = scans(config, 2)
    zero = known(config, torch.zeros(2, 8, *config.data.grid[:dims]))
    expected = (image.double() / 3).square().sum() + 4 * image[:, 0].numel()  # masks and brain are 1 or −1
    loss = zero.loss(image, truth, seeded())
    assert float(loss.detach()) == pytest.approx(float(expected) / (8 * image[:, 0].numel()), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_that_knows_the_scans_has_no_loss_and_its_samples_are_they(dims: int) -> None:
    config = smoke(dims)
    image, truth = scans(config, 2)
    brain = (image != 0).any(1, keepdim=True).float()
    clean = torch.cat([image / 3, 2 * truth - 1, 2 * brain - 1], 1)
    model = known(config, clean)
    assert float(model.loss(image, truth, seeded()).detach()) == pytest.approx(0, abs=1e-10)
    images, masks = model.sample(2, seeded())
    assert torch.allclose(images, image, atol=1e-6)
    assert torch.equal(masks, truth)


@pytest.mark.parametrize("dims", [2, 3])
def test_outside_the_generated_brain_there_is_neither_image_nor_mask(dims: int) -> None:
    config = smoke(dims)
    answer = torch.randn(3, 8, *config.data.grid[:dims], generator=seeded())
    images, masks = known(config, answer).sample(3, seeded())
    inside = (answer[:, -1:] > 0).expand_as(images)
    assert not images[~inside].any()
    assert bool((images[inside] != 0).all())
    assert not masks[~inside[:, :3]].any()
    assert torch.equal(masks[inside[:, :3]], (answer[:, 4:7] > 0).float()[inside[:, :3]])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_few_dozen_steps_lower_the_loss_and_make_samples_with_brain(dims: int) -> None:
    config = smoke(dims)
    model = generator_of(config)
    image, truth = scans(config, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    draws, losses = seeded(1), []
    for _ in range(40):
        loss = model.loss(image, truth, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-8:]) < 0.5 * sum(losses[:8])
    images, masks = model.eval().sample(2, seeded())
    assert images.shape == (2, 4, *config.data.grid[:dims])
    assert masks.shape == (2, 3, *config.data.grid[:dims])
    assert images.dtype == masks.dtype == torch.float32
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    inside = (images != 0).any(1)
    brain = (image != 0).any(1)[:2]
    assert float(inside[brain].float().mean()) > 0.7
    assert float(inside[~brain].float().mean()) < 0.3


def test_samples_repeat_with_their_generator_and_depend_on_it() -> None:
    config = smoke()
    model = generator_of(config)
    with torch.no_grad():
        for parameter in model.parameters():  # the untrained network answers 0, and 0 is no brain
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(1)))
    one, again, other = (model.sample(2, seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
