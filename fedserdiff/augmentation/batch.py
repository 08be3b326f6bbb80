"""Augmentation of a batch with given parameters, as a pure function of tensors, in 2D and 3D."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedserdiff.augmentation.intensity import add_noise, blur, brighten, coarsen, power, stretch
from fedserdiff.augmentation.movement import Movement, centre, move

_SOMETHING = 2.0**-14
"""Value of a brain voxel whose channels all became 0 by chance, which would mark it as outside the brain."""


@dataclass(frozen=True)
class Channels:
    """Channels of a batch, with the parameter of each.

    Attributes
    ----------
    rows : Tensor of shape (K,)
        Indices into the B × M channels, those of the first sample first.
    values : Tensor of shape (K,)
        Parameter of each channel.
    """

    rows: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Parameters:
    """Augmentation parameters for a batch of B samples with M channels; None leaves all samples unchanged.

    Attributes
    ----------
    movement : Movement, optional
        How samples move.
    deviation : Channels, optional
        Standard deviations of noise.
    noise : Tensor of shape (K, *grid), optional
        Standard normal noise for the channels of `deviation`.
    blur : Channels, optional
        Standard deviations of Gaussian blur in voxels.
    brightness, contrast : Channels, optional
        Factors.
    resolution : Channels, optional
        Shares of voxels that remain along each axis.
    gamma : Channels, optional
        Powers.
    sign : Tensor of shape (K,), optional
        −1 for channels of `gamma` whose negative is raised to the power, else 1.
    missing : Tensor of shape (K,), optional
        Indices of missing channels.
    """

    movement: Movement | None = None
    deviation: Channels | None = None
    noise: torch.Tensor | None = None
    blur: Channels | None = None
    brightness: Channels | None = None
    contrast: Channels | None = None
    resolution: Channels | None = None
    gamma: Channels | None = None
    sign: torch.Tensor | None = None
    missing: torch.Tensor | None = None


def apply(
    image: torch.Tensor, truth: torch.Tensor, parameters: Parameters, shape: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and masks of a batch after augmentation, with the transforms in nnU-Net's order.

    A voxel is in the brain unless it is 0 in all channels. The image stays 0 outside the brain, and no brain voxel
    becomes 0 in all channels.

    Parameters
    ----------
    image : Tensor of shape (B, M, *grid), float32
        Images, z-scored inside the brain and 0 outside.
    truth : Tensor of shape (B, R, *grid), float32
        Region masks, 0 or 1. They move with the image; a voxel is 1 if at least half of it is in the region.
    parameters : Parameters
    shape : sequence of int, optional
        Shape of the result around the grid's centre, if samples include a margin that may move into it; by default the
        grid's shape.

    Returns
    -------
    image, truth : Tensor
        Same layout as the input. Samples without any transform are unchanged to the last bit.
    """
    shape = image.shape[2:] if shape is None else shape
    movement, came = parameters.movement, (image, truth)
    image, truth = (centre(part, shape) for part in came)
    brain = (image != 0).any(1).to(image)
    if movement is not None:
        moved = _moved(came[0][movement.rows], came[1][movement.rows], movement, shape)
        parts = zip((image, brain, truth), moved, strict=True)
        image, brain, truth = (part.index_copy(0, movement.rows, of_moved) for part, of_moved in parts)
    changed = image.flatten(0, 1).clone()
    each = image.shape[1]

    def change(which: Channels | None, by: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        if which is not None:
            brains = brain[which.rows // each]
            changed.index_copy_(0, which.rows, by(changed[which.rows], brains, which.values))

    if parameters.noise is not None:
        noise = parameters.noise
        change(parameters.deviation, lambda channels, brains, deviation: add_noise(channels, brains, deviation, noise))
    change(parameters.blur, blur)
    change(parameters.brightness, lambda channels, brains, factor: brighten(channels, factor))
    change(parameters.contrast, stretch)
    change(parameters.resolution, coarsen)
    if parameters.sign is not None:
        sign = parameters.sign
        change(parameters.gamma, lambda channels, brains, gamma: power(channels, brains, gamma, sign))
    if parameters.missing is not None:
        changed.index_fill_(0, parameters.missing, 0.0)
    image = changed.unflatten(0, (-1, each))
    lost = brain * (image == 0).all(1)
    return image + _SOMETHING * lost[:, None], truth


def _moved(
    image: torch.Tensor, truth: torch.Tensor, movement: Movement, shape: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return image, brain mask and region masks of the moving samples, in one resampling.

    Intensities at the brain's border are kept: values from outside are not mixed in.
    """
    brain = (image != 0).any(1, keepdim=True).to(image)
    parts = (image, brain, truth)
    moved = move(torch.cat(parts, 1), movement, shape)
    of_image, share, of_truth = moved.split([part.shape[1] for part in parts], 1)
    inside = (share >= 0.5).to(image)
    return of_image / share.clamp(min=0.5) * inside, inside[:, 0], (of_truth >= 0.5).to(truth)
