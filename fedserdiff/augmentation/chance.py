"""Random augmentation parameters: samples are picked on the host, like items; strengths are drawn on the device."""

import math
from collections.abc import Sequence

import torch

from fedserdiff.augmentation.batch import Channels, Parameters
from fedserdiff.augmentation.movement import Movement, control_points, rotation
from fedserdiff.device import to_device
from fedserdiff.settings.augmentation import Augmentation

_STRONGER = 1.5
"""Factor of the strength `strong` on probabilities and widths (our choice)."""

_A_CHANNEL = 0.5
"""Probability of each channel of a sample to be blurred or coarsened, as in nnU-Net."""

_PROBABILITIES = (
    "rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma",
    "gamma", "missing_modality",
)  # fmt: skip
_FACTORS = ("scaling_range", "brightness_range", "contrast_range", "low_resolution_range", "gamma_range")
_TINY = 1e-30
_ANGLES = 9  # per plane, to find the reach of rotations


def strengthened(settings: Augmentation) -> Augmentation:
    """Return settings for `strong`: probabilities and ranges 1.5 times as large, ranges of factors to the power 1.5.

    Probabilities stay at most 1 and rotations at most 180°. Deformations remain free of folds, as before.
    """
    stronger: dict[str, object] = {name: min(1.0, _STRONGER * getattr(settings, name)) for name in _PROBABILITIES}
    for name in _FACTORS:  # 1 is the middle of a range of factors
        low, high = getattr(settings, name)
        stronger[name] = low**_STRONGER if low < 1 else low, high**_STRONGER if high > 1 else high
    for name in ("noise_range", "blur_range"):
        low, high = getattr(settings, name)
        stronger[name] = low, _STRONGER * high
    stronger["rotation_degrees"] = min(180.0, _STRONGER * settings.rotation_degrees)
    stronger["elastic_mm"] = _STRONGER * settings.elastic_mm
    stronger["elastic_every_mm"] = _STRONGER * settings.elastic_every_mm
    return settings.model_copy(update=stronger)


def reach(shape: Sequence[int], settings: Augmentation, spacing_mm: float) -> tuple[int, ...]:
    """Return how many voxels beyond a sample, at each end of each axis, content may move into it.

    This is the margin of the box around the sample when it is rotated, shrunk and deformed as far as the settings
    allow. A sample without this margin would lack content there.

    Parameters
    ----------
    shape : sequence of int
        Shape of the sample, in 2D or 3D.
    settings : Augmentation
        Settings, `strengthened` or not.
    spacing_mm : float
        Voxel size of the grid in mm.
    """
    half = torch.tensor(shape) / 2
    box = half
    if settings.rotation > 0:
        most = math.radians(settings.rotation_degrees)
        angles = [torch.linspace(-most, most, _ANGLES)] * (2 * len(shape) - 3)
        turned = rotation(torch.cartesian_prod(*angles).reshape(-1, len(angles)))
        box = (turned.abs() @ half).amax(0)
    if settings.scaling > 0:
        box = box / min(settings.scaling_range[0], 1.0)
    if settings.elastic > 0:
        box = box + settings.elastic_mm / spacing_mm
    return tuple(math.ceil(far) for far in (box - half).tolist())


def draw(
    shape: Sequence[int],
    settings: Augmentation,
    spacing_mm: float,
    samples: torch.Generator,
    generator: torch.Generator,
) -> Parameters:
    """Draw the augmentation parameters of a batch.

    Samples without a transform cost nothing, and the host never waits for the device. `settings.strength` and
    `settings.mirroring` are not used.

    Parameters
    ----------
    shape : sequence of int
        Shape of the images, (B, M, *grid), in 2D or 3D.
    settings : Augmentation
        Settings, `strengthened` or not.
    spacing_mm : float
        Voxel size of the grid in mm.
    samples : torch.Generator
        Generator on the host that picks the samples of each transform.
    generator : torch.Generator
        Generator on the images' device that draws the strengths.
    """
    chance = _Chance(shape, samples, generator)
    movement = _movement(shape, settings, spacing_mm, chance)
    deviation = chance.values(chance.channels(settings.noise), settings.noise_range)
    inverted, plain = chance.samples(settings.inverted_gamma), chance.samples(settings.gamma)
    gamma = chance.factors(chance.all_of(inverted | plain), settings.gamma_range)
    return Parameters(
        movement=movement,
        deviation=deviation,
        noise=None if deviation is None else chance.normal(len(deviation.rows), *shape[2:]),
        blur=chance.values(chance.some_channels(settings.blur), settings.blur_range),
        brightness=chance.factors(chance.channels(settings.brightness), settings.brightness_range),
        contrast=chance.factors(chance.channels(settings.contrast), settings.contrast_range),
        resolution=chance.values(chance.some_channels(settings.low_resolution), settings.low_resolution_range),
        gamma=gamma,
        sign=None if gamma is None else chance.signs(inverted, inverted | plain),
        missing=chance.missing(settings.missing_modality),
    )


def _movement(shape: Sequence[int], settings: Augmentation, spacing_mm: float, chance: "_Chance") -> Movement | None:
    turns, scales, bends = (chance.samples(p) for p in (settings.rotation, settings.scaling, settings.elastic))
    moves = turns | scales | bends
    if not moves.any():
        return None
    grid, count = shape[2:], int(moves.sum())
    turned, scaled, bent = to_device(torch.stack([turns, scales, bends])[:, moves].float(), chance.device)
    most = math.radians(settings.rotation_degrees)
    angles = most * (2 * chance.uniform(count, 2 * len(grid) - 3) - 1)  # one in 2D, three in 3D
    larger = chance.between(settings.scaling_range, count) ** scaled
    matrix = rotation(angles * turned[:, None]) / larger[:, None, None]
    rows = to_device(torch.nonzero(moves)[:, 0], chance.device)
    if not bends.any():
        return Movement(rows, matrix)
    points = [control_points(n, settings.elastic_every_mm / spacing_mm) for n in grid]
    shifts = (2 * chance.uniform(count, len(grid), *points) - 1) * (settings.elastic_mm / spacing_mm)
    return Movement(rows, matrix, shifts * bent.reshape(-1, *[1] * (len(grid) + 1)))


class _Chance:
    """A source of random draws for B samples with M channels."""

    def __init__(self, shape: Sequence[int], samples: torch.Generator, generator: torch.Generator) -> None:
        self._batch, self._channels = shape[:2]
        self._samples, self._generator = samples, generator
        self.device = generator.device

    def samples(self, probability: float) -> torch.Tensor:
        """Return a random selection of samples on the host: (B,), bool."""
        return torch.rand(self._batch, generator=self._samples) < probability

    def all_of(self, samples: torch.Tensor) -> torch.Tensor:
        """Return the selection of all channels of the given samples on the host: (B, M), bool."""
        return samples[:, None].expand(-1, self._channels)

    def channels(self, probability: float) -> torch.Tensor:
        """Return a random selection of samples as channels, on the host: (B, M), bool."""
        return self.all_of(self.samples(probability))

    def some_channels(self, probability: float) -> torch.Tensor:
        """Return the same, but with each channel of a selected sample included at random."""
        chances = torch.rand(self._batch, self._channels, generator=self._samples)
        return self.channels(probability) & (chances < _A_CHANNEL)

    def missing(self, probability: float) -> torch.Tensor | None:
        """Return the indices of missing channels, at most one per sample and never the only one; None if none are."""
        which = torch.randint(0, self._channels, (self._batch, 1), generator=self._samples)
        missing = self.channels(probability) & (which == torch.arange(self._channels))
        return self._rows(missing) if missing.any() and self._channels > 1 else None

    def signs(self, inverted: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """Return −1 for the channels of inverted samples among `samples`, else 1: (K,)."""
        signs = torch.where(self.all_of(inverted)[self.all_of(samples)], -1.0, 1.0)
        return to_device(signs, self.device)

    def values(self, channels: torch.Tensor, between: tuple[float, float]) -> Channels | None:
        """Return a value from a range for each selected channel; None if no channel is selected."""
        if not channels.any():
            return None
        low, high = between
        rows = self._rows(channels)
        return Channels(rows, low + (high - low) * self.uniform(len(rows)))

    def factors(self, channels: torch.Tensor, between: tuple[float, float]) -> Channels | None:
        """Return a factor from a range for each selected channel; None if no channel is selected."""
        if not channels.any():
            return None
        rows = self._rows(channels)
        return Channels(rows, self.between(between, len(rows)))

    def between(self, factors: tuple[float, float], count: int) -> torch.Tensor:
        """Return factors from a range, below and above 1 with equal probability, as in nnU-Net."""
        low, high = factors
        middle = min(max(low, 1.0), high)
        below = 0.5 if low < middle < high else float(low < middle)
        at = self.uniform(count)
        small = low + (middle - low) * at / max(below, _TINY)
        large = middle + (high - middle) * (at - below) / max(1 - below, _TINY)
        return torch.where(at < below, small, large)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return uniform numbers from 0 to 1, excluding 1, on the device."""
        return torch.rand(*shape, generator=self._generator, device=self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return standard normal numbers on the device."""
        return torch.randn(*shape, generator=self._generator, device=self.device)

    def _rows(self, channels: torch.Tensor) -> torch.Tensor:
        return to_device(torch.nonzero(channels.flatten())[:, 0], self.device)
