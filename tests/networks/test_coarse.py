"""Named coarse networks, networks of other packages, and errors for those that cannot be used."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from example_plugin import NETWORK, SOURCES
from students import lively_student
from torch import nn

from fedserdiff import wire
from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.lesson import Lesson, Replay
from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.objective import coarse_terms
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.networks import NETWORKS
from fedserdiff.networks.coarse import check_coarse
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings

SMALL: dict[str, dict[str, Any]] = {
    "unet": {},
    "segresnet": {},
    "swin-unetr": {"feature_size": 12},
    "basic-unet": {"features": [8, 8, 16, 16, 32, 8], "norm": ["group", {"num_groups": 8}]},
    "nnunet": {"n_stages": 3, "features_per_stage": [8, 16, 32], "strides": [1, 2, 2]},
    NETWORK: {"width": 4},
}
"""Arguments that make each network small."""


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCES))


def settings(name: str, arguments: dict[str, Any] | None = None, **changes: Any) -> Settings:
    return make_settings("smoke", {"network.coarse": name, "network.coarse_arguments": arguments or {}, **changes})


def small(name: str, dims: int = 2) -> Settings:
    if name == "nnunet" and importlib.util.find_spec("dynamic_network_architectures") is None:
        pytest.skip("nnU-Net's network is not installed")
    grid = (64, 64, 64) if name == "swin-unetr" else (16, 24, 16)  # the former halves five times
    return settings(name, SMALL[name], **{"data.spatial_dims": dims, "data.grid": grid})


def test_each_network_of_the_package_is_tried() -> None:
    assert set(NETWORKS) < set(SMALL)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_a_network_segments_the_grid_and_every_weight_learns(name: str, dims: int) -> None:
    config = small(name, dims)
    student = lively_student(config)
    draws = torch.Generator().manual_seed(0)
    grid = config.data.grid[:dims]
    image, truth = torch.randn(1, 4, *grid, generator=draws), torch.rand(1, 3, *grid, generator=draws).round()
    logits = student.coarse_logits(image)
    assert logits.shape == (1, 3, *grid)
    assert logits.dtype == torch.float32
    dice_bce_with_logits(logits, truth).backward()
    still = [n for n, weight in student.coarse.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


@pytest.mark.parametrize("name", ["segresnet", NETWORK])
def test_a_seed_gives_the_same_weights_whatever_was_drawn_before(name: str) -> None:
    first = wire.weights_to_record(new_student(small(name)))["weights"].numpy()
    torch.rand(7)
    before = torch.random.get_rng_state()
    again = wire.weights_to_record(new_student(small(name)))["weights"].numpy()
    assert (first == again).all()
    check_coarse(small(name))
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"


def test_weights_alone_cross_the_wire_and_constants_are_built_anew() -> None:
    config = small(NETWORK)
    student, other = new_student(config), Student(config)
    sent = wire.weights_to_record(student)
    assert sent["weights"].shape == (sum(weight.numel() for weight in student.parameters()),)
    wire.load_weights(other, sent)
    assert other.coarse.scale == 2
    image = torch.rand(2, 4, 16, 24)
    assert torch.equal(student.coarse_logits(image), other.coarse_logits(image))


@pytest.mark.parametrize(("name", "channels"), [(NETWORK, 4), ("segresnet", 3)])
def test_a_network_is_distilled_at_what_it_offers_and_else_at_its_logits(name: str, channels: int) -> None:
    config = small(name)
    student, teacher = new_student(config), new_student(config.replace(seed=1)).requires_grad_(False)
    image = torch.rand(2, 4, 16, 24)
    logits, features = student.coarse_features(image)
    assert [feature.shape for feature in features] == [(2, channels, 16, 24)]
    assert torch.equal(features[0], logits) == (name == "segresnet")

    draws = generator(0, "test")
    maps = torch.zeros(2, 3, 16, 24)
    replay = Replay(image, teacher, 1.0, *draw_noise(maps.shape, draws), maps)
    terms, _ = coarse_terms(student, Lesson(image, torch.zeros(2, 3, 16, 24), draws, replay=replay))
    assert terms.distillation is not None
    terms.distillation.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in student.coarse.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("segresent", {}, "'segresent' is not one of unet, segresnet, .*, or MODULE:OBJECT: did you mean segresnet?"),
        ("no_such:thing", {}, "network no_such:thing: cannot be imported .No module named 'no_such'.$"),
        ("math:pi", {}, "math:pi: is a float, not a function that builds a network$"),
        ("builtins:print", {}, "builtins:print: builds a NoneType, not a torch.nn.Module$"),
        ("unet", {"depth": 3}, r"unet: cannot be built with .*depth.*unexpected keyword argument 'depth'"),
        ("segresnet", {"norm": "batch"}, "segresnet: .*num_batches_tracked changes with every image, like running"),
        ("segresnet", {"init_filters": 7}, "segresnet: cannot be built with .*7"),
        (
            "basic-unet",
            {},
            r"basic-unet: cannot take images of shape \(2, 4, 16, 24\) .*: does data.grid suit this network",
        ),
        ("swin-unetr", {}, r"swin-unetr: cannot take images .*must be divisible by"),
        ("test_coarse:two_regions", {}, r"returns logits of shape \(2, 2, 16, 24\) instead of \(2, 3, 16, 24\)$"),
        ("test_coarse:several", {}, "returns a list instead of one tensor of logits$"),
        ("test_coarse:by_value", {}, r"returns logits of shape \(2, 2, 16, 24\)"),
        ("test_coarse:doubled", {}, "weight is of type float64: weights must be float32$"),
        ("test_coarse:drawn", {}, "buffer drawn differs each time the network is built"),
        ("test_coarse:lazy", {}, "weight has no shape before the first image"),
        ("test_coarse:nothing", {}, "has no trainable weights$"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_in_one_line(name: str, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^network.coarse: .*{told}") as caught:
        check_coarse(settings(name, arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("dynamic_network_architectures") is not None, reason="nnU-Net's network is installed"
)
def test_a_network_that_is_not_installed_is_refused_with_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"^network.coarse: nnunet: comes from .*pip install 'fedserdiff\[nnunet\]'$"):
        check_coarse(settings("nnunet"))


@pytest.mark.parametrize("arguments", [3, {"a": float("nan")}, {"a": {1, 2}}])
def test_arguments_are_what_a_file_can_hold(arguments: Any) -> None:
    with pytest.raises(ConfigError, match=r"^network.coarse_arguments: .* is not a table"):
        make_settings("smoke", {"network.coarse": "segresnet", "network.coarse_arguments": arguments})


def test_settings_with_arguments_hash_survive_json_and_tell_experiments_apart() -> None:
    config = settings("basic-unet", {"features": (8, 8, 16, 16, 32, 8), "norm": ("group", {"num_groups": 8})})
    back = Settings.from_dict(config.to_dict())
    assert (back, hash(back), back.fingerprint) == (config, hash(config), config.fingerprint)
    other = config.replace({"network.coarse_arguments": {"features": [8, 8, 16, 16, 32, 16]}})
    assert other != config
    assert other.fingerprint != config.fingerprint


def test_the_grid_need_not_suit_levels_that_another_network_has_not() -> None:
    odd = {"data.grid": (24, 24, 16), "network.refiner_channels": (8, 8), "network.coarse_channels": (8, 8, 8, 8, 8)}
    check_coarse(settings("segresnet", **odd))
    with pytest.raises(ConfigError, match=r"levels of network.coarse_channels"):
        settings("unet", **odd)


# Networks with something wrong with them, which the settings above name.


class _Convolution(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, image: torch.Tensor) -> Any:
        return self.layer(image)


class _Several(_Convolution):
    def forward(self, image: torch.Tensor) -> Any:
        return [self.layer(image)]


class _ByValue(_Convolution):
    """Cannot be tried without values."""

    def forward(self, image: torch.Tensor) -> Any:
        return self.layer(image) if image.sum().item() == 0 else image


class _Drawn(_Convolution):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.register_buffer("drawn", torch.rand(3))


def two_regions(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return _Convolution(in_channels, 2)


def several(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return _Several(in_channels, out_channels)


def by_value(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return _ByValue(in_channels, 2)


def doubled(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return _Convolution(in_channels, out_channels).double()


def drawn(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return _Drawn(in_channels, out_channels)


def lazy(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return nn.LazyConv2d(out_channels, 1)


def nothing(dims: int, in_channels: int, out_channels: int, grid: Sequence[int]) -> nn.Module:
    return nn.Identity()
