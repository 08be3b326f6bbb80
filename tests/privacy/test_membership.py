import numpy as np
import pytest
import torch
from students import lively_student

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.privacy.membership import LOSSES, calibrated, losses
from fedserdiff.settings.sources import make_settings

CONFIG = make_settings("smoke", {"network.precision": "fp32"})


def scans(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    truth = torch.zeros(count, 3, 16, 24)
    truth[:, :, 4:9, 6:12] = 1
    return torch.randn(count, 4, 16, 24, generator=rng), truth


def test_losses_are_of_each_item_alone() -> None:
    student = lively_student(CONFIG)
    image, truth = scans(3)
    found = losses(student, image, truth, None)
    assert set(found) == set(LOSSES)
    with torch.no_grad():
        masks = student.segment(image).double().numpy()
    expected = []
    for p, y in zip(masks, truth.numpy(), strict=True):
        dice = 1 - np.mean((2 * (p * y).sum((1, 2)) + 1) / ((p + y).sum((1, 2)) + 1))
        expected.append(dice - np.mean(np.log(np.where(y > 0, p, 1 - p).clip(1e-4, 1 - 1e-4))))
    assert np.exp(found["coarse"]) == pytest.approx(expected, rel=1e-4)
    alone = losses(student, image[:1], truth[:1], None)
    assert alone["refined"][0] == pytest.approx(found["refined"][0], rel=1e-4)


def test_losses_are_those_that_the_adapter_shows() -> None:
    student, adapter = lively_student(CONFIG), SiteAdapter(4)
    adapter.signs.fill_(-1)
    image, truth = scans(2)
    through, turned = losses(student, image, truth, adapter), losses(student, -image, truth, None)
    for name in LOSSES:
        assert through[name] == pytest.approx(turned[name], rel=1e-5)


def test_calibration_takes_away_how_hard_an_item_is() -> None:
    """Both items are members; one is hard for every model, and a shadow that saw it does not count."""
    loss = np.array([1.0, 5.0])
    shadows = [np.array([1.5, 5.5]), np.array([np.nan, 5.5]), np.array([1.5, np.nan])]
    assert calibrated(loss, shadows) == pytest.approx([0.5, 0.5])
