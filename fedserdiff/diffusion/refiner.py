"""The student: a coarse segmenter, and a residual diffusion that refines its mask and generates error maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fedserdiff.diffusion.denoiser import StemmedUNet
from fedserdiff.diffusion.precision import autocast
from fedserdiff.diffusion.schedule import ddim_step, sampling_timesteps
from fedserdiff.networks.coarse import build_coarse, with_features
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings


@dataclass(frozen=True)
class Prediction:
    """The student's prediction for a batch; each field has shape (B, 3, *grid), float32.

    Attributes
    ----------
    coarse : Tensor
        P, region probabilities in [0, 1].
    error_map : Tensor
        Ê, signed and soft, in [−1, 1].
    """

    coarse: torch.Tensor
    error_map: torch.Tensor

    @property
    def refined(self) -> torch.Tensor:
        """Refined probabilities ŷ = clip(P + Ê, 0, 1)."""
        return (self.coarse + self.error_map).clamp(0, 1)


class Student(nn.Module):
    """Coarse network g and residual diffusion f (design: DDPM forward process on E = y − P, E₀-prediction).

    The teacher is a frozen copy of a student: one model refines segmentations and generates error maps.
    """

    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.spatial_shape = config.sample_shape
        self._precision = config.network.precision
        self.drop_rates = config.training.drop_context, config.training.drop_old_map
        dims, factor = config.data.spatial_dims, config.network.stem_factor
        image, self._masks = len(config.data.modalities), len(config.data.regions)
        self._context_channels = image + 2 * self._masks  # the context is (c, P, Ê_old)
        self.coarse = build_coarse(config)
        self.refiner = StemmedUNet(
            dims, self._masks + self._context_channels, self._masks, config.network.refiner_channels, factor
        )
        for module in self.modules():
            if isinstance(module, StemmedUNet):
                module.checkpointing = config.training.checkpointing

    @property
    def device(self) -> torch.device:
        """Device of the student's weights."""
        return next(self.parameters()).device

    def coarse_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of P for images of shape (B, 4, *grid)."""
        return self.coarse_features(image)[0]

    def coarse_features(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the logits of P, and the features of g that are distilled."""
        with self._autocast(image):
            logits, features = with_features(self.coarse, image)
        return logits.float(), features

    def denoise_features(
        self, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return f(E_t, t | context), whose tanh is Ê, with f's middle and up-block features; `t` has shape (B,)."""
        with self._autocast(noisy):
            output, features = self.refiner.with_features(torch.cat([noisy, context], 1), t)
        return output.float(), features

    def _autocast(self, x: torch.Tensor) -> torch.autocast:
        return autocast(self._precision, x.device)

    def context(self, image: torch.Tensor, coarse: torch.Tensor, old_map: torch.Tensor | None = None) -> torch.Tensor:
        """Return the context (c, P, Ê_old) of shape (B, 10, *grid); Ê_old defaults to zeros."""
        return torch.cat([image, coarse, torch.zeros_like(coarse) if old_map is None else old_map], 1)

    def null_context(self, samples: int) -> torch.Tensor:
        """Return the empty context of the unconditional branch: zeros of shape (samples, 10, *grid)."""
        return torch.zeros(samples, self._context_channels, *self.spatial_shape, device=self.device)

    def noise(self, samples: int, generator: torch.Generator, shape: Sequence[int] | None = None) -> torch.Tensor:
        """Draw the initial noise for sampling, of shape (samples, 3, *grid), on the generator's device.

        `shape` is the grid's shape if samples have another size than in training.
        """
        grid = self.spatial_shape if shape is None else shape
        return torch.randn(samples, self._masks, *grid, generator=generator, device=generator.device)

    @torch.no_grad()
    def sample(self, context: torch.Tensor, steps: int, noise: torch.Tensor) -> torch.Tensor:
        """Draw error maps of shape (B, 3, *grid) in [−1, 1] by DDIM from noise, given a context.

        Parameters
        ----------
        context : Tensor of shape (B, 10, *grid)
            From `context`, or from `null_context` for the unconditional branch, which uses no patient's data.
        steps : int
            Number of sampling steps K, from 1 to 1000.
        noise : Tensor of shape (B, 3, *grid)
            From `noise`.
        """
        noisy = noise
        timesteps = sampling_timesteps(steps)
        with self._autocast(noise):
            of_context = self.refiner.entry(context, first=self._masks)  # the same at every step
        for t, t_next in zip(timesteps, [*timesteps[1:], None], strict=True):
            with self._autocast(noise):
                entry = of_context + self.refiner.entry(noisy, bias=False)
                output, _ = self.refiner.from_entry(entry, torch.full((len(noise),), t, device=noise.device))
            noisy = ddim_step(noisy, torch.tanh(output.float()), t, t_next)
        return noisy

    @torch.no_grad()
    def segment(self, image: torch.Tensor) -> torch.Tensor:
        """Return P of images of shape (B, 4, *grid)."""
        return torch.sigmoid(self.coarse_logits(image))

    @torch.no_grad()
    def predict(
        self, image: torch.Tensor, steps: int, noise: torch.Tensor, old_map: torch.Tensor | None = None
    ) -> Prediction:
        """Segment images of shape (B, 4, *grid); ground truth is not an argument, so it cannot leak into inference."""
        coarse = self.segment(image)
        return Prediction(coarse, self.sample(self.context(image, coarse, old_map), steps, noise))


def new_student(config: Settings) -> Student:
    """Return an untrained student whose weights depend only on the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        return Student(config)


def drop_context(context: torch.Tensor, masks: int, keep: torch.Tensor) -> torch.Tensor:
    """Set parts of each sample's context to 0, as `keep`, (2, B), says: row 0 the whole context, row 1 only Ê_old.

    Ê_old is the last `masks` channels, one per region. Samples whose entry of `keep` is False lose that part.
    """
    keep_all, keep_old = keep.to(context.dtype).reshape(2, -1, *[1] * (context.ndim - 1)).unbind()
    return torch.cat([context[:, :-masks], context[:, -masks:] * keep_old], 1) * keep_all


def perturb_boundary(coarse: torch.Tensor, bumps: torch.Tensor) -> torch.Tensor:
    """Move the boundary of P by smooth noise, so that f sees errors that g no longer makes on its training cases.

    P is blurred, which widens its boundary. Then `bumps`, standard normal noise on a coarser grid, are interpolated and
    added to its logits: probabilities near ½ move, certain ones stay. Amplitude and scale are our choice.
    """
    dims = coarse.ndim - 2
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    blurred = coarse
    for axis in range(dims):  # a box average is a sequence of averages along the axes
        along = [int(other == axis) for other in range(dims)]
        blurred = pool(blurred, [1 + 4 * a for a in along], 1, [2 * a for a in along], count_include_pad=False)
    mode = "bilinear" if dims == 2 else "trilinear"
    smooth = F.interpolate(bumps, coarse.shape[2:], mode=mode, align_corners=True)
    return torch.sigmoid(torch.logit(blurred, 1e-4) + 2.5 * smooth)
