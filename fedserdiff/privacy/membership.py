"""Membership inference on a student's weights: was a patient's scan among its training data?"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.losses import dice_loss
from fedserdiff.diffusion.refiner import Student
from fedserdiff.privacy.scores import Scores

LOSSES = ("coarse", "refined")
"""The student's two masks whose loss is measured."""

_STEPS = 2  # sampling steps of refinement
_AT_ONCE = 64
_LEAST = 1e-8
_CERTAIN = 1e-4  # probabilities are clipped to this distance from 0 and 1, so that one voxel cannot dominate an item


@torch.no_grad()
def losses(
    student: Student, image: torch.Tensor, truth: torch.Tensor, adapter: SiteAdapter | None
) -> dict[str, Scores]:
    """Return the logarithm of (Dice + BCE) of each item's coarse and refined masks, float64 of shape (N,).

    All items are refined from the same noise (our choice), so an item's loss does not depend on the others. The
    residual diffusion's own loss, ‖Ê − E‖² at given timesteps, does not even reveal patients that a student has
    memorised.

    Parameters
    ----------
    student : Student
    image, truth : Tensor of shape (N, 4, *grid), (N, 3, *grid)
        Scans and their region masks.
    adapter : SiteAdapter or None
        The hospital's adapter. It never leaves the hospital; an attack with it is stronger.
    """
    student.eval()
    noise = torch.randn(1, *truth.shape[1:], generator=torch.Generator().manual_seed(0)).to(image.device)
    found: dict[str, list[float]] = {name: [] for name in LOSSES}
    for images, truths in zip(image.split(_AT_ONCE), truth.split(_AT_ONCE), strict=True):
        seen = images if adapter is None else adapter(images)
        prediction = student.predict(seen, _STEPS, noise.expand_as(truths))
        for name, masks in (("coarse", prediction.coarse), ("refined", prediction.refined)):
            found[name] += [_loss(p[None], y[None]) for p, y in zip(masks, truths, strict=True)]
    return {name: np.log(np.array(values).clip(_LEAST)) for name, values in found.items()}


def _loss(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """Return Dice + BCE of a mask of probabilities, for measurement only."""
    certain = mask.clamp(_CERTAIN, 1 - _CERTAIN)
    return float(dice_loss(mask, truth) + F.binary_cross_entropy(certain, truth))


def calibrated(loss: Scores, of_shadows: Sequence[Scores]) -> Scores:
    """Return, for each item, how far its loss lies below the mean loss of shadow models that never saw it.

    Some scans are easy for every model. A member stands out by a loss lower than the scan's difficulty explains (arXiv
    2111.08440).

    Parameters
    ----------
    loss : array of shape (N,)
        Losses of the model under attack.
    of_shadows : sequence of array of shape (N,)
        Losses of each shadow model, NaN for its training items. Every item needs a shadow model not trained on it.
    """
    return np.asarray(np.nanmean(np.stack(of_shadows), axis=0) - loss)
