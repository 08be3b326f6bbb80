"""A batch changed by parameters that were drawn: a function of tensors alone, in 2D and 3D."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedserdiff.augmentation.intensity import add_noise, blur, brighten, coarsen, power, stretch
from fedserdiff.augmentation.movement import Movement, centre, move

_SOMETHING = 2.0**-14
"""What a voxel of the brain is where chance made all of its channels 0, which would say that it is outside."""


@dataclass(frozen=True)
class Channels:
    """Channels of a batch, and what each is changed by.

    Attributes
    ----------
    rows : Tensor of shape (K,)
        Which of the B × M channels, those of the first sample first.
    values : Tensor of shape (K,)
    """

    rows: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True)
class Parameters:
    """What changes a batch of B samples of M channels; what is None changes none of them.

    Attributes
    ----------
    movement : Movement, optional
        How samples move.
    deviation : Channels, optional
        Standard deviations of noise.
    noise : Tensor of shape (K, *grid), optional
        Standard normal, for the channels of `deviation`.
    blur : Channels, optional
        Standard deviations of Gaussians that blur, in voxels.
    brightness, contrast : Channels, optional
        Factors.
    resolution : Channels, optional
        Shares of the voxels of each axis that are left.
    gamma : Channels, optional
        Powers.
    sign : Tensor of shape (K,), optional
        −1 for channels of `gamma` whose negative takes the power, else 1.
    missing : Tensor of shape (K,), optional
        Rows of channels that are missing.
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
    """Return image and masks of a batch as parameters change them, in nnU-Net's order.

    The brain is what is not 0 in all channels. Outside of it the image stays 0, and no voxel of it becomes 0 in all.

    Parameters
    ----------
    image : Tensor of shape (B, M, *grid), float32
        z-scored inside the brain, 0 outside.
    truth : Tensor of shape (B, R, *grid), float32
        Region masks, 0 or 1: they move with the image, and are 1 where at least half of a voxel is.
    parameters : Parameters
    shape : sequence of int, optional
        Of what is returned, about the grid's centre, where samples come with what may move into it: the grid's.

    Returns
    -------
    image, truth : Tensor
        As they came; samples that nothing changes to the last digit.
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
    """Return image, brain and masks of the samples that move, in one resampling.

    The brain's border keeps its intensities: nothing outside is mixed in.
    """
    brain = (image != 0).any(1, keepdim=True).to(image)
    parts = (image, brain, truth)
    moved = move(torch.cat(parts, 1), movement, shape)
    of_image, share, of_truth = moved.split([part.shape[1] for part in parts], 1)
    inside = (share >= 0.5).to(image)
    return of_image / share.clamp(min=0.5) * inside, inside[:, 0], (of_truth >= 0.5).to(truth)
