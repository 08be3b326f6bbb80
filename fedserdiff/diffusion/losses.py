"""The terms of L_seg as functions of the networks' outputs; the gradient of a wrong voxel never vanishes."""

import math

import torch
import torch.nn.functional as F

_SMOOTHING = 1.0  # voxels: keeps the loss near 0 for a region that no sample shows

_CERTAIN = 1e-4
"""P is clipped to this distance from 0 and 1 before the inverse hyperbolic tangent."""


def dice_loss(probabilities: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the soft Dice loss of probabilities in [0, 1] against masks of 0 and 1, both (B, R, *grid).

    Sums run over the batch, so that slices without a region do not each count as a failure. Values equal those of
    MONAI's `DiceLoss`, which takes its axes from a tensor's values; a step that waits for these cannot be compiled.
    """
    axes = [0, *range(2, truth.ndim)]
    overlap, sizes = (probabilities * truth).sum(axes), probabilities.sum(axes) + truth.sum(axes)
    return (1 - (2 * overlap + _SMOOTHING) / (sizes + _SMOOTHING)).mean()


def dice_bce_with_logits(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return soft Dice loss + binary cross-entropy of σ(`logits`) against masks of 0 and 1, both (B, R, *grid)."""
    return dice_loss(torch.sigmoid(logits), truth) + F.binary_cross_entropy_with_logits(logits, truth)


def refined_loss(correction: torch.Tensor, coarse: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return soft Dice loss + matching loss of the refined mask ŷ = clip(P + tanh f, 0, 1).

    Parameters
    ----------
    correction : Tensor of shape (B, R, *grid)
        f, the residual diffusion's output before tanh.
    coarse : Tensor of shape (B, R, *grid)
        P in [0, 1], without gradient.
    truth : Tensor of shape (B, R, *grid)
        Region masks, 0 or 1.
    """
    refined = (coarse + torch.tanh(correction)).clamp(0, 1)
    return dice_loss(refined, truth) + matching_loss(correction, coarse, truth)


def matching_loss(correction: torch.Tensor, coarse: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the mean over voxels of 2 ∫ (ŷ(z) − y) dz, from the z at which ŷ = y to f; its f-gradient is 2 (ŷ − y).

    This is the matching loss of a transfer function (Auer, Herbster and Warmuth, NIPS 1995). For the logistic function
    it is binary cross-entropy; for ŷ = clip(P + tanh f, 0, 1) it is this loss (our choice). The logarithm of a clipped
    ŷ has no gradient if ŷ is clipped on the wrong side, and a saturated tanh passes none on. Here, a wrong voxel always
    has a gradient, which grows with the error, and a correct voxel has none. The factor 2 gives the slope of −log ŷ
    for P = 1 and ŷ near 0.

    Parameters and shapes are as for `refined_loss`; the result is at least 0.
    """
    inside = coarse.clamp(_CERTAIN, 1 - _CERTAIN)
    lower, upper = torch.atanh(-inside), torch.atanh(1 - inside)  # between them ŷ is neither 0 nor 1
    within = torch.minimum(torch.maximum(correction, lower), upper)
    beyond = (correction - upper).clamp(min=0)
    best = torch.where(truth > 0, upper, lower)
    area = inside * (within - best) + _log_cosh(within) - _log_cosh(best) + beyond - truth * (correction - best)
    return 2 * area.mean()


def _log_cosh(x: torch.Tensor) -> torch.Tensor:
    """Return log cosh x without overflow."""
    return x.abs() + F.softplus(-2 * x.abs()) - math.log(2)
