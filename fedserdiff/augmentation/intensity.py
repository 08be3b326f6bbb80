"""Intensity transforms inside the brain: of channels (K, *grid), each with its parameter and its 0/1 brain mask.

Channels are 0 outside the brain. Statistics are over the brain (our choice; nnU-Net includes the outside). Masks are
applied as factors, because `torch.where` takes ten times as long on a CPU.
"""

import torch

from fedserdiff.augmentation.movement import along_axes

_LEAST = 1e-7
"""Least divisor, as in nnU-Net."""

_FAR = 1e30
"""Larger than every intensity."""


def add_noise(
    channels: torch.Tensor, brains: torch.Tensor, deviation: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Add standard normal noise (K, *grid), multiplied by standard deviations (K,), to channels."""
    return (channels + _as(deviation, channels) * noise) * brains


def blur(channels: torch.Tensor, brains: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Blur channels with Gaussians of standard deviations (K,) in voxels, above 0.

    The outside of the brain counts as 0, the brain's mean, as in nnU-Net. Weights sum to 1 also at the grid's border.
    """
    return _by_axis(channels, brains, [_gaussian(n, deviation) for n in channels.shape[1:]])


def coarsen(channels: torch.Tensor, brains: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Lower the resolution of channels: keep shares (K,) of the voxels along each axis, and interpolate linearly back.

    This equals `torch.nn.functional.interpolate` with ``nearest-exact`` and then ``linear``, which accepts only one
    factor for all channels.
    """
    return _by_axis(channels, brains, [_coarser(n, share) for n in channels.shape[1:]])


def brighten(channels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply channels by factors (K,)."""
    return channels * _as(factor, channels)


def stretch(channels: torch.Tensor, brains: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Stretch channels around their means by factors (K,), and clip them to their original range."""
    mean, (least, most) = _mean(channels, brains), _range(channels, brains)
    return ((channels - mean) * _as(factor, channels) + mean).clamp(least, most) * brains


def power(channels: torch.Tensor, brains: torch.Tensor, gamma: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """Raise channels, scaled to their range, to powers (K,); mean and standard deviation are kept.

    `sign` (K,) is −1 for channels whose negative is raised to the power, else 1.
    """
    turned = channels * _as(sign, channels)
    least, most = _range(turned, brains)
    shares = ((turned - least) / (most - least).clamp(min=_LEAST)).clamp(0, 1)
    raised = shares ** _as(gamma, channels) * brains
    was, now = _mean(turned, brains), _mean(raised, brains)
    scale = _deviation(turned, brains, was) / _deviation(raised, brains, now).clamp(min=_LEAST)
    return _as(sign, channels) * ((raised - now) * scale + was) * brains


def _as(values: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Return values of shape (K,) reshaped to broadcast with channels."""
    return values.reshape(-1, *[1] * (channels.ndim - 1))


def _grid(channels: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(1, channels.ndim))


def _range(channels: torch.Tensor, brains: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    outside = (1 - brains) * _FAR
    least = (channels + outside).amin(_grid(channels), keepdim=True)
    return least, (channels - outside).amax(_grid(channels), keepdim=True)


def _mean(channels: torch.Tensor, brains: torch.Tensor) -> torch.Tensor:
    voxels = brains.sum(_grid(channels), keepdim=True).clamp(min=1)
    return channels.sum(_grid(channels), keepdim=True) / voxels


def _deviation(channels: torch.Tensor, brains: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return _mean(((channels - mean) * brains).square(), brains).sqrt()


def _by_axis(channels: torch.Tensor, brains: torch.Tensor, matrices: list[torch.Tensor]) -> torch.Tensor:
    return along_axes(channels[:, None], matrices)[:, 0] * brains


def _gaussian(size: int, deviation: torch.Tensor) -> torch.Tensor:
    """Return the matrices that blur along an axis, (K, 1, size, size)."""
    at = torch.arange(size, device=deviation.device, dtype=deviation.dtype)
    return torch.softmax(-(at[:, None] - at).square() / (2 * deviation.square()[:, None, None, None]), -1)


def _coarser(size: int, share: torch.Tensor) -> torch.Tensor:
    """Return the matrices that downsample along an axis and interpolate back, (K, 1, size, size)."""
    at = torch.arange(size, device=share.device, dtype=share.dtype)
    fewer = (size * share).round().clamp(min=1)[:, None]
    place = ((at + 0.5) * (fewer / size) - 0.5).clamp(min=0).minimum(fewer - 1)
    first = place.floor()
    weight = (place - first)[:, None, :, None]
    below, above = (
        (((one.minimum(fewer - 1) + 0.5) * (size / fewer)).floor()[..., None] == at)[:, None]
        for one in (first, first + 1)
    )
    return (1 - weight) * below + weight * above
