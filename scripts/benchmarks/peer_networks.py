"""What people segment brain tumours with today: the networks, and how many windows a volume takes. Nothing is trained.

Diff-UNet and nnU-Net as published: their widths, window sizes and overlap. SegResNet as MONAI's tutorial
has it. Their weights are random: what a pass costs does not depend on them.
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
        What the report calls it, and where its settings come from.
    roi : int
        Edge of a window in voxels.
    least : int
        Edge of the smallest window that `network` takes.
    passes : int
        Passes of `network` a window.
    channels : int
        That `network` takes: of the image, and of the noisy mask of a diffusion.
    network : callable
        Builds the network that passes many times.
    encoder : callable, optional
        Builds what passes once a window, over the image alone.
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
        """Return the windows of a volume of `shape` voxels, padded to the window's edge where it is smaller."""
        return sliding_windows(shape, self.roi)

    def of_volume(self, windows: int, a_pass: float, encoding: float) -> float:
        """Return the cost of a volume from those of one pass and of one encoding: seconds, or FLOPs."""
        return windows * (self.passes * a_pass + encoding)


def sliding_windows(shape: Sequence[int], roi: int) -> list[tuple[slice, ...]]:
    """Return the windows of edge `roi` that overlap by half, as MONAI's `SlidingWindowInferer` lays them.

    nnU-Net spreads its windows evenly instead of moving the last one back, and takes exactly as many.
    """
    padded = [max(n, roi) for n in shape]
    step = int(roi * (1 - _OVERLAP))
    windows: list[tuple[slice, ...]] = dense_patch_slices(padded, (roi,) * len(padded), (step,) * len(padded))
    return windows


class _DiffUNetEncoder(nn.Module):
    """The encoder of Diff-UNet, which sees the image alone: MONAI's `BasicUNet` down to its deepest level."""

    def __init__(self) -> None:
        super().__init__()
        whole = BasicUNet(3, _IMAGE, _MASK, _DIFF_UNET)
        self.down = nn.Sequential(whole.conv_0, whole.down_1, whole.down_2, whole.down_3, whole.down_4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        deepest: torch.Tensor = self.down(image)
        return deepest


class _DiffusionModelUNet(nn.Module):
    """MONAI's `DiffusionModelUNet` of Diff-UNet's width, at a fixed timestep: the cost is the same at all."""

    def __init__(self) -> None:
        super().__init__()
        levels = _DIFF_UNET[:-1]  # its way up ends with as many features as its way down begins with: 64, too
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
    """Build nnU-Net's full-resolution 3D network as it plans BraTS, deep supervision off.

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
    # Its denoiser is a BasicUNet whose blocks also add a projection of the timestep, which costs next to nothing.
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
