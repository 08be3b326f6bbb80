"""A diffusion model of multimodal images with masks, which image replay shares instead of error maps."""

import torch
import torch.nn.functional as F
from torch import nn

from fedserdiff.diffusion.denoiser import StemmedUNet
from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.precision import autocast
from fedserdiff.diffusion.schedule import add_noise, ddim_step, sampling_timesteps
from fedserdiff.settings.experiment import Settings

_SIGMAS = 3.0  # divisor of z-scores, so that most of an image lies in [−1, 1] like a mask
_STEPS = 50


class ImageGenerator(nn.Module):
    """A DDPM over image, masks and brain mask, with E₀-prediction and the refiner's widths (our choice)."""

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self._shape = config.sample_shape
        self._precision = config.network.precision
        self._channels = [len(config.data.modalities), len(config.data.regions), 1]  # the last one is the brain mask
        dims, channels = config.data.spatial_dims, sum(self._channels)
        self._network = StemmedUNet(
            dims, channels, channels, config.network.refiner_channels, config.network.stem_factor
        )

    def loss(self, image: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the mean squared error of the clean sample predicted from a noised one, at random timesteps.

        Parameters
        ----------
        image : Tensor of shape (B, 4, *grid)
            z-scored images, 0 outside the brain.
        truth : Tensor of shape (B, 3, *grid)
            Region masks, 0 or 1.
        generator : torch.Generator
            Generator on the images' device.
        """
        brain = (image != 0).any(1, keepdim=True).float()
        clean = torch.cat([image / _SIGMAS, 2 * truth - 1, 2 * brain - 1], 1)
        t, noise = draw_noise(clean.shape, generator)
        return F.mse_loss(self._denoise(add_noise(clean, noise, t), t), clean)

    @torch.no_grad()
    def sample(self, samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate images (samples, 4, *grid), 0 outside the brain, with masks (samples, 3, *grid) of 0 and 1."""
        device = generator.device
        noisy = torch.randn(samples, sum(self._channels), *self._shape, generator=generator, device=device)
        timesteps = sampling_timesteps(_STEPS)
        for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
            clean = self._denoise(noisy, torch.full((samples,), t, device=device))
            noisy = ddim_step(noisy, clean, t, t_next)
        image, masks, brain = noisy.split(self._channels, 1)
        inside = (brain > 0).float()
        return image * _SIGMAS * inside, (masks > 0).float() * inside

    def _denoise(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with autocast(self._precision, noisy.device):
            clean: torch.Tensor = self._network(noisy, t)
        return clean.float()
