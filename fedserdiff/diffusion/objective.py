"""The dual loss: L = L_seg + λ · L_KD, with L_KD over features at replayed error maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from fedserdiff.diffusion.refiner import Student, drop_context, perturb_boundary, random_timesteps
from fedserdiff.diffusion.schedule import add_noise

# Over the batch, so that slices without a region do not each count as a failure; the smoothing of one voxel keeps the
# loss of a region that no sample shows near 0.
_DICE = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)
_CERTAIN = 1e-4


@dataclass(frozen=True)
class SegmentationTerms:
    """The three terms of L_seg, scalars."""

    coarse: torch.Tensor
    refined: torch.Tensor
    error_map: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """L_seg."""
        return self.coarse + self.refined + self.error_map


def dice_bce(probabilities: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return soft Dice loss + binary cross-entropy of probabilities in [0, 1] against masks of 0 and 1."""
    bounded = probabilities.clamp(_CERTAIN, 1 - _CERTAIN)
    dice: torch.Tensor = _DICE(probabilities, truth)
    return dice + F.binary_cross_entropy(bounded, truth)


def segmentation_terms(
    student: Student,
    image: torch.Tensor,
    truth: torch.Tensor,
    old_map: torch.Tensor | None,
    perturb: bool,
    generator: torch.Generator,
) -> SegmentationTerms:
    """Return L_seg = (Dice + BCE)(P, y) + (Dice + BCE)(ŷ, y) + ‖Ê − E‖² on a hospital's own batch.

    The norm is a mean over voxels, as BCE is.

    P is detached where the diffusion sees it: each network learns from its own terms (our choice).

    Parameters
    ----------
    student : Student
        The model in training.
    image : Tensor of shape (B, 4, *grid)
    truth : Tensor of shape (B, 3, *grid)
        Region masks, 0 or 1, float32.
    old_map : Tensor of shape (B, 3, *grid), optional
        The teacher's conditional maps Ê_old, zeros for samples without one.
    perturb : bool
        Whether P is perturbed near its boundary before the diffusion sees it.
    generator : torch.Generator
        For noise, timesteps and dropouts.
    """
    coarse = torch.sigmoid(student.coarse_logits(image))
    seen = coarse.detach()
    if perturb:
        seen = perturb_boundary(seen, generator)
    error = truth - seen
    t = random_timesteps(len(image), generator).to(image.device)
    noise = torch.randn(error.shape, generator=generator).to(image.device)
    context = drop_context(student.context(image, seen, old_map), generator)
    estimate = student.denoise(add_noise(error, noise, t), t, context)
    refined = (seen + estimate).clamp(0, 1)
    return SegmentationTerms(
        coarse=dice_bce(coarse, truth),
        refined=dice_bce(refined, truth),
        error_map=F.mse_loss(estimate, error),
    )


def feature_distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], gamma: float) -> torch.Tensor:
    """Return Σ_layers ‖h_S − h_T‖²/‖h_T‖² + γ‖Cov h_S − Cov h_T‖²_F/‖Cov h_T‖²_F; 0 where S = T.

    Each feature has shape (B, C, *grid); covariances are over channels, with every position of every sample as an
    observation.
    """
    terms = []
    for s, t in zip(student, teacher, strict=True):
        terms.append(_relative_square(s, t))
        if gamma > 0:
            terms.append(gamma * _relative_square(_covariance(s), _covariance(t)))
    return torch.stack(terms).sum()


def _relative_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().sum() / b.square().sum().clamp(min=1e-12)


def _covariance(features: torch.Tensor) -> torch.Tensor:
    """Return the (C, C) covariance of features of shape (B, C, *grid)."""
    observations = features.transpose(0, 1).flatten(1)
    centred = observations - observations.mean(1, keepdim=True)
    return centred @ centred.T / (observations.shape[1] - 1)


def replay_distance(
    student: Student,
    teacher: Student,
    maps: torch.Tensor,
    context: torch.Tensor,
    gamma: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return L_KD of the residual diffusion: feature distance at replayed error maps, noised to a random t.

    Parameters
    ----------
    student, teacher : Student
        The teacher's features carry no gradient.
    maps : Tensor of shape (B, 3, *grid)
        Replayed error maps in [−1, 1].
    context : Tensor of shape (B, 10, *grid)
        The context each map came with; null for maps of the error bank.
    """
    t = random_timesteps(len(maps), generator).to(maps.device)
    noise = torch.randn(maps.shape, generator=generator).to(maps.device)
    noisy = add_noise(maps, noise, t)
    with torch.no_grad():
        old = teacher.denoise_features(noisy, t, context)[1]
    return feature_distance(student.denoise_features(noisy, t, context)[1], old, gamma)


def coarse_distance(
    student: Student, teacher: Student, image: torch.Tensor, gamma: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return L_KD of the coarse network on the hospital's own images (our choice), and the teacher's P of them.

    The paper distils its diffusion model alone. Here P is part of the context, and a coarse network free to forget
    would take the refined mask with it.
    """
    with torch.no_grad():
        logits, old = teacher.coarse_features(image)
    return feature_distance(student.coarse_features(image)[1], old, gamma), torch.sigmoid(logits)
