"""Update inversion: reconstruction of a scan from the gradient that a weight update reveals."""

import math
from collections.abc import Callable, Sequence

import torch
from monai.metrics.regression import SSIMMetric

Gradient = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""Function from an image, (1, C, *grid), to its loss's gradient for each weight, differentiable by the image."""

_RATE = 0.1  # standard deviations of a brain's intensity per step
_SMOOTH = 0.03  # weight of total variation
_RANGE = 6.0  # range of a brain's intensities in standard deviations: some 3 on each side of the mean
_WINDOW = 7
_LEAST = 1e-12


def reconstruct(
    update: Sequence[torch.Tensor], gradient: Gradient, inside: torch.Tensor, channels: int, steps: int
) -> torch.Tensor:
    """Return the image whose gradient has the direction that an update reveals.

    It minimises the cosine distance of the gradients plus total variation, by the signs of the gradient, as in arXiv
    2003.14053. It starts from an empty brain, within the outline that the attacker knows; the rate follows a cosine.

    Parameters
    ----------
    update : sequence of Tensor
        The attacker's estimate of the gradient, by weight; its length does not matter.
    gradient : callable
        The attacker's gradient function, for the same weights.
    inside : Tensor of shape (1, 1, *grid)
        1 in the brain, 0 outside.
    channels, steps : int
        Number of channels C, and number of optimisation steps.

    Returns
    -------
    Tensor of shape (1, C, *grid)
        Image, 0 outside the brain.
    """
    wanted = torch.cat([part.reshape(-1) for part in update]).detach()
    wanted = wanted / wanted.norm().clamp(min=_LEAST)
    image = inside.new_zeros(1, channels, *inside.shape[2:]).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=_RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / steps)) / 2
        shown = image * inside
        own = torch.cat([part.reshape(-1) for part in gradient(shown)])
        loss = 1 - own @ wanted / own.norm().clamp(min=_LEAST) + _SMOOTH * _variation(shown, inside)
        image.grad = torch.autograd.grad(loss, [image])[0].sign()
        optimizer.step()
    return (image * inside).detach()


def _variation(image: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference of neighbours that are both inside, summed over axes."""
    terms = []
    for axis in range(2, image.ndim):
        last = image.shape[axis] - 1
        both = inside.narrow(axis, 1, last) * inside.narrow(axis, 0, last)
        terms.append(((image.narrow(axis, 1, last) - image.narrow(axis, 0, last)) * both).abs().mean())
    return torch.stack(terms).sum()


def similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean SSIM over the channels of two images, (1, C, *grid), in [−1, 1]."""
    ssim = SSIMMetric(one.ndim - 2, data_range=_RANGE, win_size=_WINDOW)
    return float(ssim(one, other).mean())


def correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the correlation of two images in their common brain, in [−1, 1]; 0 if that is empty or they are flat."""
    both = (one != 0) & (other != 0)
    if int(both.sum()) < 2:
        return 0.0
    a, b = one[both].double(), other[both].double()
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (a.norm() * b.norm()).clamp(min=_LEAST))
