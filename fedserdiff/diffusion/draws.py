"""What chance decides of a training step, drawn where it is used: the step itself is a function of tensors alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedserdiff.diffusion.schedule import TIMESTEPS

_BUMPS_EVERY = 6  # voxels


@dataclass(frozen=True)
class Draws:
    """What the refiner's share of a step needs for B samples.

    Attributes
    ----------
    t : Tensor of shape (B,)
        Timesteps, from 0 to T − 1.
    noise : Tensor of shape (B, 3, *grid)
        Standard normal.
    keep : Tensor of shape (2, B), bool
        Which samples keep their context, and which keep Ê_old in it.
    bumps : Tensor of shape (B, 3, *coarser grid), optional
        Standard normal, by which P is perturbed near its boundary.
    """

    t: torch.Tensor
    noise: torch.Tensor
    keep: torch.Tensor
    bumps: torch.Tensor | None = None


def draw(shape: Sequence[int], rates: tuple[float, float], perturb: bool, generator: torch.Generator) -> Draws:
    """Draw what a step needs for samples of `shape`, (B, 3, *grid), on the generator's own device.

    Parameters
    ----------
    shape : sequence of int
    rates : tuple of float
        With which probabilities a sample loses its context, and Ê_old alone.
    perturb : bool
        Whether P is perturbed.
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
    """Draw a timestep for each of B samples, (B,), uniformly from 0 … T − 1, and noise of `shape`, (B, …), for them."""
    device = generator.device
    t = torch.randint(0, TIMESTEPS, (shape[0],), generator=generator, device=device)
    return t, torch.randn(*shape, generator=generator, device=device)
