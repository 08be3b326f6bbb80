"""Membership inference on a student's weights: was this patient's scan among those that it was trained on?"""

from collections.abc import Sequence

import numpy as np
import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.objective import dice_bce
from fedserdiff.diffusion.refiner import Student
from fedserdiff.diffusion.schedule import add_noise
from fedserdiff.privacy.scores import Scores

LOSSES = ("coarse", "diffusion")
"""What is measured of an item: the coarse network's loss, and the residual diffusion's."""

_TIMESTEPS = (150, 500)
_AT_ONCE = 64
_LEAST = 1e-8


@torch.no_grad()
def losses(
    student: Student, image: torch.Tensor, truth: torch.Tensor, adapter: SiteAdapter | None
) -> dict[str, Scores]:
    """Return the logarithm of each of `LOSSES` of every item, by name: float64 of shape (N,).

    ``coarse`` is (Dice + BCE)(P, y), ``diffusion`` the mean of ‖Ê − E‖² over two timesteps, each with one noise
    for all items (our choice).

    Parameters
    ----------
    student : Student
    image, truth : Tensor of shape (N, 4, *grid), (N, 3, *grid)
        Scans and their region masks.
    adapter : SiteAdapter or None
        The hospital's. It never leaves; an attack that has it is the stronger one.
    """
    student.eval()
    rng = torch.Generator().manual_seed(0)
    noises = torch.randn(len(_TIMESTEPS), 1, *truth.shape[1:], generator=rng).to(image.device)
    found: dict[str, list[float]] = {name: [] for name in LOSSES}
    for images, truths in zip(image.split(_AT_ONCE), truth.split(_AT_ONCE), strict=True):
        seen = images if adapter is None else adapter(images)
        coarse = student.segment(seen)
        found["coarse"] += [float(dice_bce(p[None], y[None])) for p, y in zip(coarse, truths, strict=True)]
        error, context = truths - coarse, student.context(seen, coarse)
        wrong = torch.zeros(len(images), device=images.device)
        for timestep, noise in zip(_TIMESTEPS, noises, strict=True):
            t = torch.full((len(images),), timestep, device=images.device)
            noisy = add_noise(error, noise.expand_as(error), t)
            estimate, _ = student.denoise_features(noisy, t, context)
            wrong += (estimate - error).square().flatten(1).mean(1) / len(_TIMESTEPS)
        found["diffusion"] += wrong.tolist()
    return {name: np.log(np.array(values).clip(_LEAST)) for name, values in found.items()}


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
