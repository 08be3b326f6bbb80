"""The random numbers of a training step, drawn outside it, so that the step is a pure function of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedserdiff.diffusion.schedule import TIMESTEPS

_BUMPS_EVERY = 6  # voxels


@dataclass(frozen=True)
class Draws:
    """The random numbers that the refiner's part of a step needs for B samples.

    Attributes
    ----------
    t : Tensor of shape (B,)
        Timesteps, from 0 to T − 1.
    noise : Tensor of shape (B, 3, *grid)
        Standard normal noise.
    keep : Tensor of shape (2, B), bool
        Row 0: samples that keep their context; row 1: samples that keep Ê_old in it.
    bumps : Tensor of shape (B, 3, *coarser grid), optional
        Standard normal noise that perturbs P near its boundary.
    """

    t: torch.Tensor
    noise: torch.Tensor
    keep: torch.Tensor
    bumps: torch.Tensor | None = None


def draw(shape: Sequence[int], rates: tuple[float, float], perturb: bool, generator: torch.Generator) -> Draws:
    """Draw the random numbers of a step for samples of `shape`, (B, 3, *grid), on the generator's device.

    Parameters
    ----------
    shape : sequence of int
    rates : tuple of float
        Probabilities that a sample loses its whole context, and that it loses only Ê_old.
    perturb : bool
        Whether P is to be perturbed.
    generator : torch.Generator
    """
    batch, masks, *grid = shape
    device = generator.device
    coarser = [max(n // _BUMPS_EVERY, 2) for n in grid]
    bumps = torch.randn(batch, masks, *coarser, generator=generator, device=device) if perturb else None
    t, noise = draw_noise(shape, generator)
    chances = torch.rand(2, batch, generator=generator, device=device)
    keep = torch.stack([chance >= rate for chance, rate in zip(chances, rates, strict=True)])
    return Draws(t, noise, keep, bumps)


def draw_noise(shape: Sequence[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a timestep in 0 … T − 1, uniformly, for each of B samples, and noise of `shape`, (B, …)."""
    device = generator.device
    t = torch.randint(0, TIMESTEPS, (shape[0],), generator=generator, device=device)
    return t, torch.randn(*shape, generator=generator, device=device)
