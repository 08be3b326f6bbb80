import numpy as np
import pytest
import torch
from torch import nn

from fedserdiff.privacy.reconstruction import correlation, reconstruct, similarity

SHAPE = (16, 24)


def image(seed: int) -> torch.Tensor:
    """A blurred brain in a box, of mean 0 and standard deviation 1 within it."""
    noise = torch.randn(1, 4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool2d(noise, 5, 1, 2)
    inside = torch.zeros(1, 1, *SHAPE)
    inside[..., 2:-2, 3:-3] = 1
    return torch.as_tensor(inside * (smooth - smooth.mean()) / smooth.std())


def gradient_of(network: nn.Module, seen: torch.Tensor, create_graph: bool = True) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(network(seen).square().mean(), list(network.parameters()), create_graph=create_graph)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    """A network whose first layer's gradient is a multiple of its input."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * 16 * 24, 32), nn.Sigmoid(), nn.Linear(32, 8))


@pytest.mark.parametrize("length", [1.0, 1e-3])
def test_what_a_dense_network_was_shown_is_had_back_from_its_gradient_whatever_its_length(
    dense: nn.Module, length: float
) -> None:
    true = image(1)
    inside = (true != 0).any(1, keepdim=True).float()
    update = [length * part for part in gradient_of(dense, true, create_graph=False)]
    found = reconstruct(update, lambda seen: gradient_of(dense, seen), inside, 4, 200)
    assert found.shape == true.shape
    assert (found * (1 - inside)).abs().max() == 0
    assert correlation(found, true) > 0.95
    assert abs(correlation(found, image(2))) < 0.3
    assert similarity(found, true) > 0.8 > similarity(found, image(2))


def test_an_update_that_tells_nothing_brings_nothing_back(dense: nn.Module) -> None:
    true = image(1)
    update = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) for p in dense.parameters()]
    found = reconstruct(update, lambda seen: gradient_of(dense, seen), (true != 0).any(1, keepdim=True).float(), 4, 50)
    assert abs(correlation(found, true)) < 0.3


def test_correlation_is_that_of_voxels_where_both_show_brain() -> None:
    one, other = image(1), image(2)
    other[..., :8, :] = 0
    both = ((one != 0) & (other != 0)).numpy()
    expected = np.corrcoef(one.numpy()[both], other.numpy()[both])[0, 1]
    assert correlation(one, other) == pytest.approx(expected, abs=1e-6)
    assert correlation(one, 3 - 2 * one) == pytest.approx(-1)  # where 3 − 2x is brain, too
    assert correlation(one, torch.zeros_like(one)) == 0
    assert correlation(one, (one != 0).float()) == 0  # flat


def test_an_image_resembles_itself_wholly() -> None:
    assert similarity(image(1), image(1)) == pytest.approx(1)
    assert similarity(image(1), image(2)) < 0.5
