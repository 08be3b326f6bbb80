"""Builders of the coarse networks: each takes dimensions, channels, the grid, and the network's own arguments.

Third-party builders have the same form: ``build(dims, in_channels, out_channels, grid, **arguments) -> nn.Module``.
"""

import importlib
from collections.abc import Sequence
from typing import Any, cast

from monai.networks.nets import BasicUNet, SegResNet, SwinUNETR
from torch import nn

from fedserdiff.diffusion.denoiser import StemmedUNet
from fedserdiff.errors import ConfigError

_MOST_FEATURES = {2: 512, 3: 320}  # nnU-Net's limits in 2D and 3D
_LEAST_EDGE = 4  # nnU-Net does not halve an axis below this


def unet(
    dims: int, in_channels: int, out_channels: int, grid: Sequence[int], *, channels: Sequence[int], factor: int
) -> nn.Module:
    """Build the default network, a `StemmedUNet` that always runs at timestep 0."""
    return StemmedUNet(dims, in_channels, out_channels, channels, factor)


def segresnet(dims: int, in_channels: int, out_channels: int, grid: Sequence[int], **arguments: Any) -> nn.Module:
    """Build MONAI's SegResNet (Myronenko, arXiv 1810.11654, without its autoencoder)."""
    network: nn.Module = SegResNet(spatial_dims=dims, in_channels=in_channels, out_channels=out_channels, **arguments)
    return network


def swin_unetr(dims: int, in_channels: int, out_channels: int, grid: Sequence[int], **arguments: Any) -> nn.Module:
    """Build MONAI's SwinUNETR (Hatamizadeh et al., arXiv 2201.01266)."""
    network: nn.Module = SwinUNETR(spatial_dims=dims, in_channels=in_channels, out_channels=out_channels, **arguments)
    return network


def basic_unet(dims: int, in_channels: int, out_channels: int, grid: Sequence[int], **arguments: Any) -> nn.Module:
    """Build MONAI's BasicUNet (Falk et al., Nature Methods 2019)."""
    network: nn.Module = BasicUNet(spatial_dims=dims, in_channels=in_channels, out_channels=out_channels, **arguments)
    return network


def nnunet(dims: int, in_channels: int, out_channels: int, grid: Sequence[int], **arguments: Any) -> nn.Module:
    """Build nnU-Net's PlainConvUNet (Isensee et al., Nature Methods 2021), without deep supervision.

    Without arguments, its widths follow nnU-Net's rule, and it halves the grid as often as all axes allow. All axes are
    halved equally (our choice; nnU-Net plans each axis separately).

    Raises
    ------
    ConfigError
        If the optional package is not installed.
    """
    try:
        architectures = importlib.import_module("dynamic_network_architectures.architectures.unet")
    except ImportError:
        raise ConfigError(
            "comes from dynamic-network-architectures, which is not installed: pip install 'fedserdiff[nnunet]'"
        ) from None
    stages = 1
    while all(n % 2**stages == 0 and n // 2**stages >= _LEAST_EDGE for n in grid):
        stages += 1
    planned: dict[str, Any] = {
        "n_stages": stages,
        "features_per_stage": [min(32 * 2**stage, _MOST_FEATURES[dims]) for stage in range(stages)],
        "kernel_sizes": 3,
        "strides": [1, *[2] * (stages - 1)],
        "n_conv_per_stage": 2,
        "n_conv_per_stage_decoder": 2,
        "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin_kwargs": {"inplace": True},
    }
    network: Any = architectures.PlainConvUNet(
        input_channels=in_channels,
        num_classes=out_channels,
        conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        nonlin=nn.LeakyReLU,
        deep_supervision=False,
        **{**planned, **arguments},
    )
    network.decoder.seg_layers = network.decoder.seg_layers[-1:]  # the others only serve deep supervision
    return cast(nn.Module, network)
