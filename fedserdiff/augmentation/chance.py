"""By how much a batch is changed: drawn on the device, from what the settings say of each transform."""

import math
from collections.abc import Sequence

import torch

from fedserdiff.augmentation.batch import Parameters
from fedserdiff.augmentation.geometry import Geometry, control_points, rotation
from fedserdiff.settings.groups import Augmentation

_STRONGER = 1.5
"""What `strong` multiplies probabilities and widths by (our choice)."""

_A_CHANNEL = 0.5
"""With which probability a channel of a sample that is blurred, or has fewer voxels, is so: nnU-Net's."""

_TINY = 1e-30

_PROBABILITIES = (
    "rotation", "scaling", "elastic", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma",
    "gamma", "missing_modality",
)  # fmt: skip
_FACTORS = ("scaling_range", "brightness_range", "contrast_range", "low_resolution_range", "gamma_range")


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


def draw(shape: Sequence[int], settings: Augmentation, spacing_mm: float, generator: torch.Generator) -> Parameters:
    """Draw what changes images of a shape, on the generator's own device.

    `settings.strength` is not asked: `strengthened` settings are drawn from like others.

    Parameters
    ----------
    shape : sequence of int
        (B, M, *grid), in 2D or 3D.
    settings : Augmentation
        A transform of probability 0 is left out, and nothing is drawn for it.
    spacing_mm : float
        Voxel size of the grid.
    generator : torch.Generator
    """
    chance, noise, gamma, inverted = _Chance(shape, generator), None, None, None
    if settings.noise > 0:
        noise = torch.randn(*shape, generator=generator, device=generator.device)
    if settings.gamma > 0 or settings.inverted_gamma > 0:
        inverted = chance.samples(settings.inverted_gamma)
        gamma = chance.of_channels(settings.gamma_range, inverted | chance.samples(settings.gamma))
    return Parameters(
        geometry=_geometry(shape, settings, spacing_mm, chance),
        deviation=None if noise is None else chance.values(settings.noise_range, chance.samples(settings.noise), 0.0),
        noise=noise,
        blur=chance.of_some_channels(settings.blur, settings.blur_range, 0.0),
        resolution=chance.of_some_channels(settings.low_resolution, settings.low_resolution_range, 1.0),
        brightness=chance.of_all_channels(settings.brightness, settings.brightness_range),
        contrast=chance.of_all_channels(settings.contrast, settings.contrast_range),
        gamma=gamma,
        inverted=inverted,
        present=chance.present(settings.missing_modality),
    )


def _geometry(
    shape: Sequence[int], settings: Augmentation, spacing_mm: float, chance: "_Chance"
) -> Geometry | None:
    batch, _, *grid = shape
    if settings.rotation == settings.scaling == settings.elastic == 0:
        return None
    most = math.radians(settings.rotation_degrees)
    angles = most * (2 * chance.uniform(batch, 2 * len(grid) - 3) - 1)  # one in 2D, three in 3D
    matrix = rotation(angles * chance.samples(settings.rotation)[:, None])
    matrix = matrix / chance.factors(settings.scaling_range, chance.samples(settings.scaling))[:, None, None]
    if settings.elastic == 0:
        return Geometry(matrix)
    points = [control_points(n, settings.elastic_every_mm / spacing_mm) for n in grid]
    shifts = (2 * chance.uniform(batch, len(grid), *points) - 1) * (settings.elastic_mm / spacing_mm)
    return Geometry(matrix, shifts * chance.samples(settings.elastic).reshape(-1, *[1] * (len(grid) + 1)))


class _Chance:
    """Draws for B samples of M channels."""

    def __init__(self, shape: Sequence[int], generator: torch.Generator) -> None:
        self._batch, self._channels = shape[:2]
        self._generator = generator

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return numbers from 0 to 1, 1 left out."""
        return torch.rand(*shape, generator=self._generator, device=self._generator.device)

    def samples(self, probability: float) -> torch.Tensor:
        """Return which samples something happens to: (B,), bool."""
        return self.uniform(self._batch) < probability

    def values(self, between: tuple[float, float], where: torch.Tensor, elsewhere: float) -> torch.Tensor:
        """Return a value from a range for each sample, (B,), that something happens to."""
        low, high = between
        return torch.where(where, low + (high - low) * self.uniform(*where.shape), elsewhere)

    def factors(self, between: tuple[float, float], where: torch.Tensor) -> torch.Tensor:
        """Return factors from a range, of those below and above 1 as many each, as in nnU-Net; elsewhere 1."""
        low, high = between
        middle = min(max(low, 1.0), high)
        share = 0.5 if low < middle < high else float(low < middle)
        at = self.uniform(*where.shape)
        below = low + (middle - low) * at / max(share, _TINY)
        above = middle + (high - middle) * (at - share) / max(1 - share, _TINY)
        return torch.where(where, torch.where(at < share, below, above), 1.0)

    def of_some_channels(
        self, probability: float, between: tuple[float, float], elsewhere: float
    ) -> torch.Tensor | None:
        """Return values for half of the channels of each sample that something happens to; None where it never does."""
        if probability == 0:
            return None
        where = self.samples(probability)[:, None] & (self.uniform(self._batch, self._channels) < _A_CHANNEL)
        return self.values(between, where, elsewhere)

    def of_all_channels(self, probability: float, between: tuple[float, float]) -> torch.Tensor | None:
        """Return factors, a channel's own, for each sample that something happens to; None where it never does."""
        if probability == 0:
            return None
        return self.of_channels(between, self.samples(probability))

    def of_channels(self, between: tuple[float, float], where: torch.Tensor) -> torch.Tensor:
        """Return factors, a channel's own, of samples (B,) that something happens to; elsewhere 1."""
        return self.factors(between, where[:, None].expand(-1, self._channels))

    def present(self, probability: float) -> torch.Tensor | None:
        """Return which channels are there where a sample may lack one of several; None where it never does."""
        if probability == 0 or self._channels == 1:
            return None
        numbers = torch.arange(self._channels, device=self._generator.device)
        missing = (self.uniform(self._batch) * self._channels).floor()[:, None] == numbers
        return ~(missing & self.samples(probability)[:, None])
