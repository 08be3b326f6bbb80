"""Random draws follow the settings, repeat with the same generators, and stay off the host, except
the choice of samples."""

import math
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fedserdiff.augmentation.batch import Channels, Parameters, apply
from fedserdiff.augmentation.chance import draw, strengthened
from fedserdiff.errors import ConfigError
from fedserdiff.settings.augmentation import Augmentation
from fedserdiff.settings.sources import make_settings

NEVER = dict.fromkeys(
    ("rotation", "scaling", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"), 0.0
)
EVERYTHING = Augmentation(**dict.fromkeys((*NEVER, "elastic", "missing_modality"), 0.8))
MANY = (4000, 4, 4, 4)


def drawn(settings: Augmentation, shape: tuple[int, ...] = MANY, seed: int = 0, spacing_mm: float = 1.0) -> Parameters:
    samples, generator = (torch.Generator().manual_seed(seed + n) for n in range(2))
    return draw(shape, settings, spacing_mm, samples, generator)


def of(channels: Channels | None) -> torch.Tensor:
    assert channels is not None
    assert len(channels.rows) == len(channels.values)
    return channels.values


@pytest.mark.parametrize(
    ("name", "field", "share_of_channels", "low", "high"),
    [
        ("noise", "deviation", 0.1, 0.0, 0.1),
        ("blur", "blur", 0.2 / 2, 0.5, 1.0),
        ("brightness", "brightness", 0.15, 0.75, 1.25),
        ("contrast", "contrast", 0.15, 0.75, 1.25),
        ("low_resolution", "resolution", 0.25 / 2, 0.5, 1.0),
        ("gamma", "gamma", 0.3, 0.7, 1.5),
        ("inverted_gamma", "gamma", 0.1, 0.7, 1.5),
    ],
)
def test_defaults_are_nnunets_probabilities_and_ranges(
    name: str, field: str, share_of_channels: float, low: float, high: float
) -> None:
    settings = Augmentation(**{**NEVER, name: getattr(Augmentation(), name)})
    parameters = drawn(settings)
    values = of(getattr(parameters, field))
    assert len(values) / 16000 == pytest.approx(share_of_channels, rel=0.15)
    assert low <= float(values.min()) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < float(values.max()) <= high
    middle = 1.0 if low < 1 < high else (low + high) / 2
    assert float((values < middle).float().mean()) == pytest.approx(0.5, abs=0.05)
    if field == "gamma":
        assert parameters.sign is not None
        assert set(parameters.sign.tolist()) == {-1.0 if name == "inverted_gamma" else 1.0}
    drawn_too = {"deviation": "noise", "gamma": "sign"}.get(field)
    assert [one for one, value in vars(parameters).items() if value is not None and one not in (field, drawn_too)] == []


@pytest.mark.parametrize("grid", [(4, 4), (4, 4, 4)])
def test_samples_are_rotated_and_scaled_as_often_and_as_much_as_the_settings_say(grid: tuple[int, ...]) -> None:
    movement = drawn(Augmentation(), (4000, 1, *grid)).movement
    assert movement is not None
    assert movement.shifts is None
    assert len(movement.rows) / 4000 == pytest.approx(1 - 0.8 * 0.8, rel=0.1)
    larger = torch.linalg.det(movement.matrix).abs() ** (-1 / len(grid))
    scaled = (larger - 1).abs() > 1e-5
    assert float(scaled.sum() / 4000) == pytest.approx(0.2, rel=0.15)
    assert 0.7 - 1e-5 <= float(larger.min()) < 0.72
    assert 1.38 < float(larger.max()) <= 1.4 + 1e-5
    if len(grid) == 2:
        angles = torch.atan2(movement.matrix[:, 0, 1], movement.matrix[:, 0, 0]) * 180 / math.pi
        assert 28 < float(angles.abs().max()) <= 30.001
        assert float((angles.abs() > 1e-4).sum() / 4000) == pytest.approx(0.2, rel=0.15)
        assert abs(float(angles.mean())) < 1


def test_control_points_are_as_far_apart_and_move_as_much_as_the_settings_say() -> None:
    settings = Augmentation(**NEVER, elastic=0.5, elastic_mm=6.0, elastic_every_mm=30.0)
    movement = drawn(settings, (200, 1, 40, 25), spacing_mm=3.0).movement
    assert movement is not None
    assert movement.shifts is not None
    assert movement.shifts.shape == (len(movement.rows), 2, 4 + 3, 2 + 3)  # 40 and 25 voxels, 10 apart or more
    assert 60 < len(movement.rows) < 140
    assert 1.95 < float(movement.shifts.abs().max()) <= 2
    torch.testing.assert_close(movement.matrix, torch.eye(2).expand_as(movement.matrix))


def test_a_sample_lacks_one_modality_at_most_and_never_the_only_one() -> None:
    settings = Augmentation(**NEVER, missing_modality=0.4)
    rows = drawn(settings).missing
    assert rows is not None
    assert len(set((rows // 4).tolist())) == len(rows)
    assert len(rows) / 4000 == pytest.approx(0.4, rel=0.1)
    assert (rows % 4).bincount().tolist() == pytest.approx([len(rows) / 4] * 4, rel=0.2)
    assert drawn(settings, (100, 1, 4, 4)).missing is None


def test_strong_has_half_as_much_again_of_everything_and_stays_in_range() -> None:
    strong = strengthened(Augmentation(gamma=0.8, elastic_mm=10.0))
    assert (strong.gamma, strong.rotation, strong.elastic) == (1.0, pytest.approx(0.3), 0.0)
    assert strong.rotation_degrees == 45
    assert strong.scaling_range == pytest.approx((0.7**1.5, 1.4**1.5))
    assert strong.low_resolution_range == pytest.approx((0.5**1.5, 1.0))
    assert strong.noise_range == pytest.approx((0.0, 0.15))
    assert strong.blur_range == pytest.approx((0.5, 1.5))
    assert strong.elastic_mm / strong.elastic_every_mm == pytest.approx(10 / 32)
    assert strong.mirroring == 0.5
    Augmentation.model_validate(strong.model_dump())


@pytest.mark.parametrize("shape", [(6, 4, 16, 24), (3, 4, 8, 12, 10)])
def test_the_same_parameters_give_the_same_batch_and_other_seeds_another(shape: tuple[int, ...]) -> None:
    image = torch.randn(*shape, generator=torch.Generator().manual_seed(9))
    image[:, :, :3] = 0
    truth = (image[:, :3] > 1).float()
    parameters = drawn(EVERYTHING, shape, 5)
    once, again = apply(image, truth, parameters), apply(image, truth, drawn(EVERYTHING, shape, 5))
    assert all(map(torch.equal, once, again))
    assert all(map(torch.equal, once, apply(image, truth, parameters)))
    assert not torch.equal(once[0], apply(image, truth, drawn(EVERYTHING, shape, 6))[0])
    assert not once[0].isnan().any()
    untouched = apply(image, truth, Parameters())
    assert torch.equal(untouched[0], image)
    assert torch.equal(untouched[1], truth)


@pytest.mark.parametrize("shape", [(6, 4, 16, 24), (3, 4, 8, 12, 10)])
def test_a_batch_is_changed_by_a_function_of_tensors_that_is_traced_whole(shape: tuple[int, ...]) -> None:
    image = torch.randn(*shape, generator=torch.Generator().manual_seed(9))
    truth = (image[:, :3] > 1).float()
    parameters = drawn(EVERYTHING, shape, 5)
    assert [name for name, value in vars(parameters).items() if value is None] == []
    torch.compiler.reset()
    traced = torch.compile(apply, fullgraph=True, backend="eager")(image, truth, parameters)
    torch.testing.assert_close(traced, apply(image, truth, parameters))


class Drawn(TorchFunctionMode):
    """Remembers how many numbers were drawn from which generator."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[tuple[int, torch.Generator]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.rand, torch.randn, torch.randint):
            self.draws.append((result.numel(), (kwargs or {})["generator"]))
        return result


def test_the_host_draws_no_more_than_which_channels_change() -> None:
    samples, generator = (torch.Generator().manual_seed(n) for n in range(2))
    with Drawn() as mode:
        draw((6, 4, 16, 24), EVERYTHING, 1.0, samples, generator)
    assert all(size <= 6 * 4 for size, source in mode.draws if source is samples)
    assert any(size >= 16 * 24 for size, source in mode.draws if source is generator)
    assert {id(source) for _, source in mode.draws} == {id(samples), id(generator)}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("gamma_range", (1.5, 0.7), r"augmentation.gamma_range: .*more than 0, the smaller one first"),
        ("blur_range", (0.0, 1.0), r"augmentation.blur_range: .*more than 0, the smaller one first"),
        ("low_resolution_range", (0.5, 1.2), r"augmentation.low_resolution_range: .*at most 1"),
        ("noise_range", (-0.1, 0.1), r"augmentation.noise_range: .*at least 0"),
        ("noise", 1.5, r"augmentation.noise: 1.5 is not a number of at least 0 and at most 1"),
        ("elastic_mm", 20.0, r"augmentation.elastic_mm: 20 is more than 0.4 of augmentation.elastic_every_mm, 32"),
        ("strength", "weak", r"augmentation.strength: 'weak' is not one of off, on, strong"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_settings("smoke", {f"augmentation.{name}": value})
