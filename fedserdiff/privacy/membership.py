"""Membership inference on a student's weights: was this patient's scan among those that it was trained on?"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.losses import dice_loss
from fedserdiff.diffusion.refiner import Student
from fedserdiff.privacy.scores import Scores

LOSSES = ("coarse", "refined")
"""Of which of a student's two masks the loss is taken."""

_STEPS = 2  # by which a mask is refined
_AT_ONCE = 64
_LEAST = 1e-8
_CERTAIN = 1e-4  # a probability counts as no surer than this: one voxel is not to drown all others of an item


@torch.no_grad()
def losses(
    student: Student, image: torch.Tensor, truth: torch.Tensor, adapter: SiteAdapter | None
) -> dict[str, Scores]:
    """Return the logarithm of (Dice + BCE) of the coarse and the refined mask of every item: float64 of shape (N,).

    All items are refined from one noise (our choice): a loss does not depend on what else comes. The residual
    diffusion's own loss, ‖Ê − E‖² at given timesteps, does not even tell whom a student has learnt by heart.

    Parameters
    ----------
    student : Student
    image, truth : Tensor of shape (N, 4, *grid), (N, 3, *grid)
        Scans and their region masks.
    adapter : SiteAdapter or None
        The hospital's. It never leaves; an attack that has it is the stronger one.
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
    """Return Dice + BCE of a mask of probabilities, which nothing learns from."""
    certain = mask.clamp(_CERTAIN, 1 - _CERTAIN)
    return float(dice_loss(mask, truth) + F.binary_cross_entropy(certain, truth))


def calibrated(loss: Scores, of_shadows: Sequence[Scores]) -> Scores:
    """Return, item by item, how far a loss lies below the mean of shadow models' that never saw the item.

    Some scans are easy for every model: what tells a member is a loss lower than the scan's own difficulty explains
    (arXiv 2111.08440).

    Parameters
    ----------
    loss : array of shape (N,)
        Of the model under attack.
    of_shadows : sequence of array of shape (N,)
        Of each shadow model, NaN for items that it was trained on; every item has a shadow without it.
    """
    return np.asarray(np.nanmean(np.stack(of_shadows), axis=0) - loss)
