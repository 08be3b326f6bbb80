"""Loss values compared with NumPy and quadrature, and gradients, above all of a network that is certain and wrong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from fedserdiff.diffusion.losses import dice_bce_with_logits, dice_loss, matching_loss, refined_loss


def refined(correction: float, coarse: float) -> float:
    """ŷ by its definition."""
    return float(np.clip(coarse + np.tanh(correction), 0, 1))


def test_dice_bce_equals_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    z = 3 * rng.standard_normal((2, 3, 4, 5))
    y = (rng.random((2, 3, 4, 5)) < 0.4).astype(float)
    y[:, 2] = 0  # a region that no sample shows
    p = 1 / (1 + np.exp(-z))
    axes = (0, 2, 3)
    dice = 1 - ((2 * (p * y).sum(axes) + 1) / (p.sum(axes) + y.sum(axes) + 1)).mean()
    bce = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    ours = dice_bce_with_logits(torch.tensor(z, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    assert float(ours) == pytest.approx(dice + bce, rel=1e-4)


@pytest.mark.parametrize("logit", [-60.0, -9.5, 9.5, 60.0])
def test_a_voxel_that_is_certain_and_wrong_pulls_as_hard_as_bce_has_it(logit: float) -> None:
    """The first of five voxels is wrong: BCE's slope there is (σ(z) − y) / 5, and Dice adds almost nothing."""
    wrong = float(logit < 0)
    logits = torch.tensor([logit, 1.0, -1.0, 2.0, -2.0]).reshape(1, 1, 5, 1).requires_grad_()
    truth = torch.tensor([wrong, 1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 5, 1)
    dice_bce_with_logits(logits, truth).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0, 0]) == pytest.approx(0.2 * np.sign(logit), rel=1e-2)


@pytest.mark.parametrize("coarse", [0.0, 1e-3, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("truth", [0.0, 1.0])
@pytest.mark.parametrize("correction", [-40.0, -3.0, -0.4, 0.0, 0.3, 2.0, 40.0])
def test_the_matching_loss_is_the_integral_of_what_is_wrong(coarse: float, truth: float, correction: float) -> None:
    """Value by quadrature from where ŷ is right; gradient 2 (ŷ − y), which only a voxel that is right lacks."""
    f = torch.tensor([correction], requires_grad=True)
    loss = matching_loss(f, torch.tensor([coarse]), torch.tensor([truth]))
    loss.backward()  # type: ignore[no-untyped-call]
    right = np.arctanh(min(1 - coarse, 1 - 1e-6)) if truth else -np.arctanh(min(coarse, 1 - 1e-6))
    pieces = np.unique([right, *np.clip([-5.0, -0.5, 0.5, 5.0], *sorted((right, correction))), correction])
    area = sum(quad(lambda z: refined(z, coarse) - truth, a, b)[0] for a, b in pairwise(pieces))
    assert float(loss) == pytest.approx(2 * area * np.sign(correction - right), abs=2e-3, rel=1e-4)
    assert f.grad is not None
    assert float(f.grad) == pytest.approx(2 * (refined(correction, coarse) - truth), abs=1e-3)


@pytest.mark.parametrize(("coarse", "correction"), [(0.0, -9.5), (0.0, 0.0), (0.3, -2.0), (1.0, -9.5), (0.999, -9.5)])
def test_a_refined_voxel_that_is_wrong_is_corrected_whatever_clips_or_saturates_it(
    coarse: float, correction: float
) -> None:
    """Missed tumour and made-up tumour alike; a clipped logarithm gives nothing, or 10⁻⁵ of it, at all of these."""
    for truth in (0.0, 1.0):
        p, f = (coarse, correction) if truth else (1 - coarse, -correction)
        given = torch.tensor([f, 0.0, 0.0, 0.0, 0.0]).reshape(1, 1, 5, 1).requires_grad_()
        others = torch.tensor([p, 1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 5, 1)
        truths = torch.tensor([truth, 1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 5, 1)
        refined_loss(given, others, truths).backward()  # type: ignore[no-untyped-call]
        assert given.grad is not None
        slope = float(given.grad[0, 0, 0, 0])
        assert slope < -0.35 if truth else slope > 0.35


def test_the_refined_loss_is_dice_of_the_clipped_mask_and_the_matching_loss() -> None:
    rng = torch.Generator().manual_seed(0)
    f, p = torch.randn(2, 3, 4, 5, generator=rng), torch.rand(2, 3, 4, 5, generator=rng)
    y = (torch.rand(2, 3, 4, 5, generator=rng) < 0.4).float()
    mask = torch.from_numpy(np.clip(p.numpy() + np.tanh(f.numpy()), 0, 1))
    assert float(refined_loss(f, p, y)) == pytest.approx(float(dice_loss(mask, y) + matching_loss(f, p, y)), rel=1e-5)
