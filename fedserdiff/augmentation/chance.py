"""What changes a batch: which samples, drawn on the host like items; by how much, drawn on the device."""

import math
from collections.abc import Sequence

import torch

from fedserdiff.augmentation.batch import Channels, Parameters
from fedserdiff.augmentation.movement import Movement, control_points, rotation
from fedserdiff.device import to_device
from fedserdiff.settings.augmentation import Augmentation

_STRONGER = 1.5
"""What `strong` multiplies probabilities and widths by (our choice)."""

_A_CHANNEL = 0.5
"""With which probability a channel of a sample that is blurred, or has fewer voxels, is so: nnU-Net's."""

_PROBABILITIES = (
    "rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma",
    "gamma", "missing_modality",
)  # fmt: skip
_FACTORS = ("scaling_range", "brightness_range", "contrast_range", "low_resolution_range", "gamma_range")
_TINY = 1e-30
_ANGLES = 9  # of each axis, by which the reach of rotations is found


def strengthened(settings: Augmentation) -> Augmentation:
    """Return what `strong` makes of settings: probabilities and ranges 1.5 times as large, those of factors as powers.

    Probabilities stay at most 1, rotations at most 180°, and a deformation folds as little as before.
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
    """Return from how many voxels beyond a sample of a shape, at either end of each axis, something may move into it.

    It is the box about the sample that is turned, shrunk and deformed by as much as the settings allow: what a larger
    sample would show there is what a smaller one lacks.

    Parameters
    ----------
    shape : sequence of int
        Of the sample, in 2D or 3D.
    settings : Augmentation
        `strengthened` or not.
    spacing_mm : float
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
    """Draw what changes images of a shape. Samples that a transform leaves alone cost nothing, and nothing waits.

    `settings.strength` and `settings.mirroring` are not asked.

    Parameters
    ----------
    shape : sequence of int
        (B, M, *grid), in 2D or 3D.
    settings : Augmentation
        `strengthened` or not.
    spacing_mm : float
        Voxel size of the grid.
    samples : torch.Generator
        On the host; it decides which samples each transform changes.
    generator : torch.Generator
        On the device of the images; it decides by how much.
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
    """Draws for B samples of M channels."""

    def __init__(self, shape: Sequence[int], samples: torch.Generator, generator: torch.Generator) -> None:
        self._batch, self._channels = shape[:2]
        self._samples, self._generator = samples, generator
        self.device = generator.device

    def samples(self, probability: float) -> torch.Tensor:
        """Return, on the host, which samples something happens to: (B,), bool."""
        return torch.rand(self._batch, generator=self._samples) < probability

    def all_of(self, samples: torch.Tensor) -> torch.Tensor:
        """Return, on the host, which channels are those of some samples: (B, M), bool."""
        return samples[:, None].expand(-1, self._channels)

    def channels(self, probability: float) -> torch.Tensor:
        """Return, on the host, which channels something happens to that happens to samples: (B, M), bool."""
        return self.all_of(self.samples(probability))

    def some_channels(self, probability: float) -> torch.Tensor:
        """Return the same of something that happens to some channels of a sample."""
        chances = torch.rand(self._batch, self._channels, generator=self._samples)
        return self.channels(probability) & (chances < _A_CHANNEL)

    def missing(self, probability: float) -> torch.Tensor | None:
        """Return the rows of channels that are missing, at most one a sample of several; None where there are none."""
        which = torch.randint(0, self._channels, (self._batch, 1), generator=self._samples)
        missing = self.channels(probability) & (which == torch.arange(self._channels))
        return self._rows(missing) if missing.any() and self._channels > 1 else None

    def signs(self, inverted: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """Return −1 for the channels of inverted samples among some, else 1: (K,)."""
        signs = torch.where(self.all_of(inverted)[self.all_of(samples)], -1.0, 1.0)
        return to_device(signs, self.device)

    def values(self, channels: torch.Tensor, between: tuple[float, float]) -> Channels | None:
        """Return a value from a range for each of some channels; None where there are none."""
        if not channels.any():
            return None
        low, high = between
        rows = self._rows(channels)
        return Channels(rows, low + (high - low) * self.uniform(len(rows)))

    def factors(self, channels: torch.Tensor, between: tuple[float, float]) -> Channels | None:
        """Return a factor from a range for each of some channels; None where there are none."""
        if not channels.any():
            return None
        rows = self._rows(channels)
        return Channels(rows, self.between(between, len(rows)))

    def between(self, factors: tuple[float, float], count: int) -> torch.Tensor:
        """Return factors from a range, as often below as above 1, as in nnU-Net."""
        low, high = factors
        middle = min(max(low, 1.0), high)
        below = 0.5 if low < middle < high else float(low < middle)
        at = self.uniform(count)
        small = low + (middle - low) * at / max(below, _TINY)
        large = middle + (high - middle) * (at - below) / max(1 - below, _TINY)
        return torch.where(at < below, small, large)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return, on the device, numbers from 0 to 1, 1 left out."""
        return torch.rand(*shape, generator=self._generator, device=self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        """Return, on the device, standard normal numbers."""
        return torch.randn(*shape, generator=self._generator, device=self.device)

    def _rows(self, channels: torch.Tensor) -> torch.Tensor:
        return to_device(torch.nonzero(channels.flatten())[:, 0], self.device)
