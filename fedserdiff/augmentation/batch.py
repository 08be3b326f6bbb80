"""A batch changed by parameters that were drawn: a function of tensors alone, in 2D and 3D."""

from dataclasses import dataclass

import torch

from fedserdiff.augmentation.geometry import Geometry, move
from fedserdiff.augmentation.intensity import add_noise, brighten, power, smooth, stretch

_SOMETHING = 2.0**-14
"""What a voxel of the brain is where chance made all of its channels 0, which would say that it is outside."""


@dataclass(frozen=True)
class Parameters:
    """By how much each of B samples of M channels is changed; what is None changes none of them.

    Attributes
    ----------
    geometry : Geometry, optional
        How it moves.
    deviation : Tensor of shape (B,), optional
        Standard deviation of noise.
    noise : Tensor of shape (B, M, *grid), optional
        Standard normal.
    blur : Tensor of shape (B, M), optional
        Standard deviation of the Gaussian that blurs, in voxels.
    resolution : Tensor of shape (B, M), optional
        Share of the voxels of each axis that is left.
    brightness, contrast, gamma : Tensor of shape (B, M), optional
        Factors, and powers.
    inverted : Tensor of shape (B,), bool, optional
        Samples whose negative takes the power.
    present : Tensor of shape (B, M), bool, optional
        Channels that are not missing.
    """

    geometry: Geometry | None = None
    deviation: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    blur: torch.Tensor | None = None
    resolution: torch.Tensor | None = None
    brightness: torch.Tensor | None = None
    contrast: torch.Tensor | None = None
    gamma: torch.Tensor | None = None
    inverted: torch.Tensor | None = None
    present: torch.Tensor | None = None


def apply(
    image: torch.Tensor, truth: torch.Tensor, parameters: Parameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and masks of a batch as parameters change them, in nnU-Net's order.

    The brain is what is not 0 in all channels. Outside of it the image stays 0, and no voxel of it becomes 0 in all.
    Intensities are changed by what the brain alone shows (our choice: nnU-Net counts the outside in).

    Parameters
    ----------
    image : Tensor of shape (B, M, *grid), float32
        z-scored inside the brain, 0 outside.
    truth : Tensor of shape (B, R, *grid), float32
        Region masks, 0 or 1: they move with the image, and are 1 where at least half of a voxel is.
    parameters : Parameters

    Returns
    -------
    image, truth : Tensor
        As they came.
    """
    brain = (image != 0).any(1, keepdim=True)
    if parameters.geometry is not None:
        image, brain, truth = _moved(image, brain, truth, parameters.geometry)
    if parameters.deviation is not None and parameters.noise is not None:
        image = add_noise(image, brain, parameters.deviation[:, None], parameters.noise)
    blur, resolution = parameters.blur, parameters.resolution
    if blur is not None or resolution is not None:
        blur = torch.zeros_like(resolution) if blur is None else blur  # type: ignore[arg-type]
        image = smooth(image, brain, blur, torch.ones_like(blur) if resolution is None else resolution)
    if parameters.brightness is not None:
        image = brighten(image, parameters.brightness)
    if parameters.contrast is not None:
        image = stretch(image, brain, parameters.contrast)
    if parameters.gamma is not None and parameters.inverted is not None:
        image = power(image, brain, parameters.gamma, parameters.inverted)
    if parameters.present is not None:
        image = image * parameters.present.reshape(*parameters.present.shape, *[1] * (image.ndim - 2))
    lost = brain & (image == 0).all(1, keepdim=True)
    return torch.where(lost, _SOMETHING, image), truth


def _moved(
    image: torch.Tensor, brain: torch.Tensor, truth: torch.Tensor, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move all of a batch in one resampling. The brain's border keeps its intensities: nothing outside is mixed in."""
    channels = [image.shape[1], 1, truth.shape[1]]
    moved, share, masks = move(torch.cat([image, brain.to(image), truth], 1), geometry).split(channels, 1)
    inside = share >= 0.5
    return torch.where(inside, moved / share.clamp(min=0.5), 0.0), inside, (masks >= 0.5).to(truth)
