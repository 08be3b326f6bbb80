"""Painting of lesions into scans, as a pure function of tensors, in 2D and 3D."""

import torch
import torch.nn.functional as F

from fedserdiff.lesions.brush import Brush
from fedserdiff.lesions.moments import LEAST_DEVIATION, PRIOR_VOXELS

_RIM_NOISE = 0.15  # relative to a lesion's depth (our choice)
_BLOB_NOISE = 0.25  # relative to the radius
_LEAST_VOXELS = 12  # of a lesion to paint over; a sample with fewer gets one in healthy tissue


def paint(
    image: torch.Tensor, truth: torch.Tensor, brush: Brush, whitening: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paint lesions of other hospitals into samples: their classes, from the rim inwards, and their intensities.

    An existing lesion keeps its outline. A sample without a lesion gets a bumpy ball in healthy tissue. Texture and
    noise come from the sample: deviations from a class's mean are given the covariance of the painted class.

    Parameters
    ----------
    image : Tensor of shape (N, M, *grid)
        Images, 0 outside the brain in all channels.
    truth : Tensor of shape (N, R, *grid)
        Region masks, 0 or 1.
    brush : Brush
    whitening : Tensor of shape (R, M, M)
        Whitening matrices of each class's texture at this hospital: see `fedserdiff.lesions.brush.whitening`.

    Returns
    -------
    image, truth : Tensor
        Shapes as for the input. An image does not change outside the lesion.
    """
    brain = (image != 0).any(1)
    old = truth.bool()
    there = old.any(1)
    large = _wide(there.flatten(1).sum(1) >= _LEAST_VOXELS, there)
    healthy = brain & ~there
    whole = torch.where(large, there, _ball(healthy, brush))
    new = _classes(whole, brush)
    texture, mean, deviation = _texture(image, healthy, _parts(old, brush.inside), whitening)
    painted = new.to(image)
    looks = torch.einsum("nr...,nrm->nm...", painted, brush.means) + _coloured(texture, painted, brush.colours)
    target = mean + deviation * looks
    soft = (_smooth(whole.to(image)[:, None]) * (whole & brain)[:, None]).clamp(0, 1)
    mask = _regions(new, brush.inside)
    kept = old & ~large[:, None]  # a few lesion voxels elsewhere keep their class
    return image + soft * (target - image), (mask | kept).to(truth)


def _ball(free: torch.Tensor, brush: Brush) -> torch.Tensor:
    """Return bumpy balls (N, *grid) around a random voxel of `free`, and inside it."""
    grid = free.shape[1:]
    at = (free * (1 + brush.place)).flatten(1).argmax(1)
    square = torch.zeros(free.shape, device=free.device)
    for axis, length in enumerate(grid):
        stride = 1
        for later in grid[axis + 1 :]:
            stride *= later
        centre = (at // stride) % length
        along = torch.arange(length, device=free.device).reshape(-1, *[1] * (len(grid) - 1 - axis))
        square = square + (along - _wide(centre, free)).square()
    reach = _wide(brush.radius, free) * (1 + _BLOB_NOISE * brush.rim)
    return free & (square.sqrt() <= reach)


def _classes(whole: torch.Tensor, brush: Brush) -> torch.Tensor:
    """Return masks (N, R, *grid) of the class of each voxel of lesions (N, *grid), by its depth and noise."""
    depth, layer = torch.zeros_like(whole, dtype=torch.int16), whole
    for _ in range(max(whole.shape[1:]) // 4):
        depth += layer
        layer = _eroded(layer)
    deepest = depth.flatten(1).amax(1).clamp(min=1)
    field = depth / _wide(deepest, whole) + _RIM_NOISE * brush.rim
    flat = torch.where(whole, field, torch.inf).flatten(1)
    order = flat.sort(1).values  # the rim first, outside voxels last
    count = whole.flatten(1).sum(1)

    def cut(share: torch.Tensor) -> torch.Tensor:
        """Return the depth (N, R) below which the given share of the lesion's voxels lies."""
        place = (share * count[:, None]).round().long()
        found = order.gather(1, place.clamp(max=order.shape[1] - 1))
        return torch.where(place >= count[:, None], torch.inf, found)

    begin, end = (cut(share)[(...,) + (None,) * (whole.ndim - 1)] for share in (brush.begin, brush.end))
    return whole[:, None] & (field[:, None] >= begin) & (field[:, None] < end)


def _eroded(mask: torch.Tensor) -> torch.Tensor:
    """Return masks (N, *grid) without voxels that have an outside neighbour along an axis; grid edges do not count."""
    left = mask.clone()
    for axis, length in enumerate(mask.shape[1:], 1):
        first, last = (mask.narrow(axis, start, length - 1) for start in (0, 1))
        left.narrow(axis, 0, length - 1).logical_and_(last)
        left.narrow(axis, 1, length - 1).logical_and_(first)
    return left


def _parts(mask: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the classes (N, R, *grid) of region masks: each region without the regions inside it."""
    inner = torch.einsum("nij,ni...->nj...", inside, mask.to(inside))
    return mask & (inner == 0)


def _regions(classes: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return the region masks (N, R, *grid) of classes: each class with those of the regions inside it."""
    return classes | (torch.einsum("nij,ni...->nj...", inside, classes.to(inside)) > 0)


def _texture(
    image: torch.Tensor, healthy: torch.Tensor, parts: torch.Tensor, whitening: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the voxels' deviations from their class's mean in the sample, whitened; and healthy mean and deviation.

    Shapes: (N, M, *grid), then (N, M, 1, …) twice.
    """
    trust = _wide(healthy.flatten(1).sum(1), image[:, 0])[:, None]
    trust = trust / (trust + PRIOR_VOXELS)
    mean = trust * _mean(image, healthy)
    deviation = (trust * _mean((image - mean).square(), healthy) + 1 - trust).sqrt().clamp(min=LEAST_DEVIATION)
    relative = (image - mean) / deviation
    white = relative * healthy[:, None]
    for number, inverse in enumerate(whitening):
        part = parts[:, number]
        away = (relative - _mean(relative, part)) * part[:, None]
        white = white + torch.einsum("ij,nj...->ni...", inverse, away)
    return white.clamp(-4, 4), mean, deviation


def _coloured(texture: torch.Tensor, classes: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Return white noise (N, M, *grid) with the covariance of each voxel's class."""
    looks = torch.zeros_like(texture)
    for number in range(classes.shape[1]):
        looks = looks + classes[:, number, None] * torch.einsum("nij,nj...->ni...", colours[:, number], texture)
    return looks


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Return the mean (N, M, 1, …) of values (N, M, *grid) inside a mask (N, *grid); 0 if it is empty."""
    axes = tuple(range(2, values.ndim))
    inside = where[:, None].to(values)
    return (values * inside).sum(axes, keepdim=True) / inside.sum(axes, keepdim=True).clamp(min=1)


def _smooth(values: torch.Tensor) -> torch.Tensor:
    """Return the average of values (N, C, *grid) and their local means over 3 voxels along each axis."""
    pool = F.avg_pool2d if values.ndim == 4 else F.avg_pool3d
    return (values + pool(values, 3, 1, 1, count_include_pad=False)) / 2


def _wide(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return values (N,) reshaped to broadcast with (N, *grid)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
