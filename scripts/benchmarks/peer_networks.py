"""Established networks for segmenting brain tumours, and the number of windows of a volume. Nothing is trained.

Diff-UNet and nnU-Net have their published widths, window sizes and overlap. SegResNet is as in MONAI's tutorial.
Weights are random, since the cost of a pass does not depend on them.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.inferers.utils import dense_patch_slices
from monai.networks.nets import BasicUNet, DiffusionModelUNet, SegResNet
from torch import nn

from fedserdiff.data.releases import BRATS_MODALITIES, BRATS_REGIONS
from fedserdiff.errors import ConfigError

_IMAGE, _MASK = len(BRATS_MODALITIES), len(BRATS_REGIONS)
_DIFF_UNET = (64, 64, 128, 256, 512, 64)
_NNUNET = (32, 64, 128, 256, 320, 320)
_OVERLAP = 0.5  # of both
_DIFF_UNET_PASSES = 10 * 4  # DDIM steps × samples


@dataclass(frozen=True)
class Peer:
    """A network that segments a volume window by window.

    Attributes
    ----------
    title, source : str
        Name in the report, and its settings with their source.
    roi : int
        Edge of a window in voxels.
    least : int
        Edge of the smallest window that `network` accepts.
    passes : int
        Passes of `network` per window.
    channels : int
        Input channels of `network`: of the image and, for a diffusion, of the noisy mask.
    network : callable
        Builds the network that runs in every pass.
    encoder : callable, optional
        Builds the network that runs once per window, on the image only.
    """

    title: str
    source: str
    roi: int
    least: int
    passes: int
    channels: int
    network: Callable[[], nn.Module]
    encoder: Callable[[], nn.Module] | None = None

    def windows(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        """Return the windows of a volume of `shape` voxels, padded to at least one window."""
        return sliding_windows(shape, self.roi)

    def of_volume(self, windows: int, a_pass: float, encoding: float) -> float:
        """Return the cost of a volume from those of one pass and one encoding, in seconds or FLOPs."""
        return windows * (self.passes * a_pass + encoding)


def sliding_windows(shape: Sequence[int], roi: int) -> list[tuple[slice, ...]]:
    """Return windows of edge `roi` that overlap by half, placed as by MONAI's `SlidingWindowInferer`.

    nnU-Net spaces its windows evenly instead of moving the last one back, but uses exactly as many.
    """
    padded = [max(n, roi) for n in shape]
    step = int(roi * (1 - _OVERLAP))
    windows: list[tuple[slice, ...]] = dense_patch_slices(padded, (roi,) * len(padded), (step,) * len(padded))
    return windows


class _DiffUNetEncoder(nn.Module):
    """The encoder of Diff-UNet, which sees only the image: MONAI's `BasicUNet` down to its deepest level."""

    def __init__(self) -> None:
        super().__init__()
        whole = BasicUNet(3, _IMAGE, _MASK, _DIFF_UNET)
        self.down = nn.Sequential(whole.conv_0, whole.down_1, whole.down_2, whole.down_3, whole.down_4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        deepest: torch.Tensor = self.down(image)
        return deepest


class _DiffusionModelUNet(nn.Module):
    """MONAI's `DiffusionModelUNet` with Diff-UNet's width, at a fixed timestep; the cost is the same for all."""

    def __init__(self) -> None:
        super().__init__()
        levels = _DIFF_UNET[:-1]  # its decoder ends with as many features as its encoder begins with: also 64
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=_IMAGE + _MASK,
            out_channels=_MASK,
            channels=levels,
            attention_levels=(False,) * len(levels),
            num_res_blocks=1,
            norm_num_groups=32,
            num_head_channels=levels[-1],
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        estimate: torch.Tensor = self.unet(x, torch.zeros(len(x), device=x.device))
        return estimate


def _nnunet() -> nn.Module:
    """Build nnU-Net's full-resolution 3D network as planned for BraTS, without deep supervision.

    Raises
    ------
    ConfigError
        If the optional package is not installed.
    """
    try:
        architectures = importlib.import_module("dynamic_network_architectures.architectures.unet")
    except ImportError:
        raise ConfigError(
            "nnU-Net's network comes from dynamic-network-architectures: pip install 'fedserdiff[benchmark]'"
        ) from None
    network: nn.Module = architectures.PlainConvUNet(
        input_channels=_IMAGE,
        n_stages=len(_NNUNET),
        features_per_stage=_NNUNET,
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2, 2, 2, 2),
        n_conv_per_stage=2,
        num_classes=_MASK,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    return network


PEERS = {
    # Its denoiser is a BasicUNet whose blocks also add a projection of the timestep, at negligible cost.
    "diff-unet": Peer(
        "Diff-UNet as published",
        "BasicUNet 64, 64, 128, 256, 512, 64; windows of 96³, overlap 0.5; 10 DDIM steps × 4 samples",
        roi=96,
        least=32,
        passes=_DIFF_UNET_PASSES,
        channels=_IMAGE + _MASK,
        network=lambda: BasicUNet(3, _IMAGE + _MASK, _MASK, _DIFF_UNET),
        encoder=_DiffUNetEncoder,
    ),
    "monai-diffusion": Peer(
        "the same with MONAI's DiffusionModelUNet",
        "DiffusionModelUNet 64, 64, 128, 256, 512, one residual block a level, no attention; else as Diff-UNet",
        roi=96,
        least=32,
        passes=_DIFF_UNET_PASSES,
        channels=_IMAGE + _MASK,
        network=_DiffusionModelUNet,
        encoder=_DiffUNetEncoder,
    ),
    "nnunet": Peer(
        "nnU-Net's full-resolution network",
        "PlainConvUNet 32, 64, 128, 256, 320, 320; windows of 128³, overlap 0.5; one pass, no mirroring",
        roi=128,
        least=64,
        passes=1,
        channels=_IMAGE,
        network=_nnunet,
    ),
    "segresnet": Peer(
        "MONAI's SegResNet",
        "SegResNet 16, 32, 64, 128 of MONAI's BraTS tutorial; windows of 128³, overlap 0.5 (our choice); one pass",
        roi=128,
        least=16,
        passes=1,
        channels=_IMAGE,
        network=lambda: SegResNet(init_filters=16, in_channels=_IMAGE, out_channels=_MASK, dropout_prob=0.2),
    ),
}
