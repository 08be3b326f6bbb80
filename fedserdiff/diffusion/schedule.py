"""The noise schedule of the residual diffusion and its deterministic sampler.

Cosine ᾱ: Nichol and Dhariwal, arXiv 2102.09672, eq. 17. DDIM with η = 0: Song et al., arXiv 2010.02502, eq. 12, here
with E₀-prediction. It is written out instead of using a scheduler class, because MONAI's DDIM assumes that a step goes
from t to t − T//K, which is wrong if K does not divide T.
"""

import math

import torch

TIMESTEPS = 1000
"""Number of steps T of the forward process."""

_OFFSET = 0.008  # s in eq. 17
_LEAST = 1e-5  # ᾱ never quite reaches 0, so that ε stays defined at t = T − 1


def alpha_bar(t: torch.Tensor) -> torch.Tensor:
    """Return ᾱ, which falls from almost 1 to almost 0, at timesteps `t`: integers from 0 to T − 1, of any shape."""
    steps = (t + 1).double() / TIMESTEPS
    angles = (steps + _OFFSET) / (1 + _OFFSET) * math.pi / 2
    start = math.cos(_OFFSET / (1 + _OFFSET) * math.pi / 2) ** 2
    return (torch.cos(angles) ** 2 / start).clamp(min=_LEAST).float()


def sampling_timesteps(steps: int) -> list[int]:
    """Return the K sampling timesteps, from T − 1 downwards in *trailing* spacing (999, 749, 499, 249 for K = 4).

    Trailing spacing starts from pure noise and ends one stride above 0: Lin et al., arXiv 2305.08891, table 2.
    """
    return [round(TIMESTEPS * (1 - i / steps)) - 1 for i in range(steps)]


def add_noise(clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return √ᾱ_t · clean + √(1 − ᾱ_t) · noise, with one timestep per sample: `t` has shape (B,)."""
    alpha = alpha_bar(t).reshape(-1, *[1] * (clean.ndim - 1))
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def ddim_step(noisy: torch.Tensor, clean: torch.Tensor, t: int, t_next: int | None) -> torch.Tensor:
    """Move a sample from timestep `t` to `t_next` along the direction that `clean`, the E₀-prediction, implies.

    If `t_next` is None, sampling ends (ᾱ = 1), and the result is `clean`.
    """
    if t_next is None:
        return clean
    now, then = alpha_bar(torch.tensor([t, t_next])).unbind()
    noise = (noisy - now.sqrt() * clean) / (1 - now).sqrt()
    return then.sqrt() * clean + (1 - then).sqrt() * noise
