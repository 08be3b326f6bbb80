"""What changes intensities, inside the brain alone: an image (B, M, *grid) with its brain (B, 1, *grid), bool.

Factors, powers, deviations and shares are tensors of shape (B, M), one a sample and channel. One that changes nothing
(1, or 0 for a deviation) leaves its channel as it is, to the last digit.
"""

import torch

from fedserdiff.augmentation.geometry import along_axes

_LEAST = 1e-7
"""Of what is divided by, as in nnU-Net."""


def add_noise(image: torch.Tensor, brain: torch.Tensor, deviation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the image with noise (B, M, *grid), standard normal, times its deviation."""
    return torch.where(brain, image + _of_channels(deviation, image) * noise, image)


def smooth(image: torch.Tensor, brain: torch.Tensor, blur: torch.Tensor, resolution: torch.Tensor) -> torch.Tensor:
    """Return the image blurred by Gaussians, and then sampled more coarsely and back, each channel by its own.

    Both are a matrix along each axis, and together one: `torch.nn.functional.interpolate` has one factor for a batch.
    What is outside of the brain counts as 0, the brain's mean, as in nnU-Net.
    """
    matrices = [_coarser(n, resolution) @ _gaussian(n, blur) for n in image.shape[2:]]
    return torch.where(brain, along_axes(image, matrices), image)


def brighten(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return the image times a factor."""
    return image * _of_channels(factor, image)


def stretch(image: torch.Tensor, brain: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Return the image stretched about its mean, cut to its own range."""
    mean, (least, most), by = _mean(image, brain), _range(image, brain), _of_channels(factor, image)
    stretched = ((image - mean) * by + mean).clamp(least, most)
    return torch.where(brain & (by != 1), stretched, image)


def power(image: torch.Tensor, brain: torch.Tensor, gamma: torch.Tensor, inverted: torch.Tensor) -> torch.Tensor:
    """Return the image, as shares of its range, to a power; mean and standard deviation are kept.

    Parameters
    ----------
    image, brain, gamma : Tensor
        As above.
    inverted : Tensor of shape (B,), bool
        Samples whose negative takes the power.
    """
    sign = torch.where(_of_channels(inverted[:, None], image), -1.0, 1.0)
    turned, by = image * sign, _of_channels(gamma, image)
    least, most = _range(turned, brain)
    size = (most - least).clamp(min=_LEAST)
    raised = torch.where(brain, ((turned - least) / size).clamp(0, 1) ** by, 0.0)
    was, now = _mean(turned, brain), _mean(raised, brain)
    scale = _deviation(turned, brain, was) / _deviation(raised, brain, now).clamp(min=_LEAST)
    return torch.where(brain & (by != 1), sign * ((raised - now) * scale + was), image)


def _of_channels(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return values.reshape(*values.shape, *[1] * (image.ndim - 2))


def _range(image: torch.Tensor, brain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grid = tuple(range(2, image.ndim))
    least = torch.where(brain, image, torch.inf).amin(grid, keepdim=True)
    return least, torch.where(brain, image, -torch.inf).amax(grid, keepdim=True)


def _mean(image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Return the mean inside the brain of an image that is 0 outside."""
    grid = tuple(range(2, image.ndim))
    return image.sum(grid, keepdim=True) / brain.sum(grid, keepdim=True).clamp(min=1)


def _deviation(image: torch.Tensor, brain: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return _mean(torch.where(brain, image - mean, 0.0).square(), brain).sqrt()


def _gaussian(size: int, deviation: torch.Tensor) -> torch.Tensor:
    """Return what blurs an axis, (B, M, size, size); rows sum to 1 at the grid's border, too."""
    at = torch.arange(size, device=deviation.device, dtype=deviation.dtype)
    far = (at[:, None] - at).square()
    return torch.softmax(-far / (2 * deviation.clamp(min=1e-3).square()[..., None, None]), -1)


def _coarser(size: int, share: torch.Tensor) -> torch.Tensor:
    """Return what samples an axis with a share of its voxels, the nearest, and then linearly between them.

    Shape (B, M, size, size); it is what `torch.nn.functional.interpolate` does by ``nearest-exact`` and ``linear``.
    """
    at = torch.arange(size, device=share.device, dtype=share.dtype)
    fewer = (size * share).round().clamp(min=1)[..., None]
    place = ((at + 0.5) * (fewer / size) - 0.5).clamp(min=0).minimum(fewer - 1)
    first = place.floor()
    weight = (place - first)[..., None]
    below, above = (
        ((one.minimum(fewer - 1) + 0.5) * (size / fewer)).floor()[..., None] == at for one in (first, first + 1)
    )
    return (1 - weight) * below + weight * above
