"""Update inversion: which scan has the gradient that an update of weights shows?"""

import math
from collections.abc import Callable, Sequence

import torch
from monai.metrics.regression import SSIMMetric

Gradient = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""From an image, (1, C, *grid), to the gradient of its loss by each weight, itself differentiable by the image."""

_RATE = 0.1  # standard deviations of a brain's intensity a step
_SMOOTH = 0.03  # weight of total variation
_RANGE = 6.0  # of a brain's intensities in standard deviations: some 3 either side of their mean
_WINDOW = 7
_LEAST = 1e-12


def reconstruct(
    update: Sequence[torch.Tensor], gradient: Gradient, inside: torch.Tensor, channels: int, steps: int
) -> torch.Tensor:
    """Return the image whose gradient points where an update shows that it pointed.

    Cosine of the gradients and total variation, minimised by the signs of their own gradient, as in arXiv 2003.14053.
    From an empty brain, within the outline that the attacker is told; the rate falls by a cosine.

    Parameters
    ----------
    update : sequence of Tensor
        What the attacker takes for the gradient, by weight; its length does not matter.
    gradient : callable
        The attacker's own, of the same weights.
    inside : Tensor of shape (1, 1, *grid)
        1 in the brain, 0 outside.
    channels, steps : int
        C, and how often the image is changed.

    Returns
    -------
    Tensor of shape (1, C, *grid)
        As `gradient` takes it; 0 outside the brain.
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
    """Return the mean absolute difference of neighbours that are both inside, summed over directions."""
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
    """Return the correlation of two images where both show brain, in [−1, 1]; 0 where they share none, or are flat."""
    both = (one != 0) & (other != 0)
    if int(both.sum()) < 2:
        return 0.0
    a, b = one[both].double(), other[both].double()
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / (a.norm() * b.norm()).clamp(min=_LEAST))
