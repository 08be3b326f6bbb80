"""The network that both the coarse segmenter and the residual diffusion are made of."""

from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import nn

_GROUPS = 8


class StemmedUNet(nn.Module):
    """MONAI's `DiffusionModelUNet` between a space-to-depth stem and its inverse.

    The stem moves `factor` × `factor` neighbourhoods into channels, so that every convolution runs on a grid
    `factor` times coarser: about three times cheaper a step, at equal Dice (our choice, measured).

    Parameters
    ----------
    spatial_dims : {2, 3}
        Slices or volumes.
    in_channels, out_channels : int
        Channels at full resolution.
    channels : sequence of int
        Features a level, each a multiple of 8.
    factor : int
        Of the stem, at least 1.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, channels: Sequence[int], factor: int
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.factor = factor
        cells = factor**spatial_dims
        self.unet = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels * cells,
            out_channels=out_channels * cells,
            channels=tuple(channels),
            attention_levels=(False,) * len(channels),
            num_res_blocks=1,
            norm_num_groups=_GROUPS,
            num_head_channels=channels[-1],
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Map (B, in_channels, *grid) at timesteps (B,) to (B, out_channels, *grid)."""
        y = self.unet(pixelunshuffle(x, self.spatial_dims, self.factor), t)
        full: torch.Tensor = pixelshuffle(y, self.spatial_dims, self.factor)
        return full

    def with_features(self, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return `forward` and the outputs of the middle block and of every up block, deepest first."""
        features: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            features.append(output)

        blocks = [self.unet.middle_block, *self.unet.up_blocks]
        handles = [block.register_forward_hook(keep) for block in blocks]
        try:
            return self(x, t), features
        finally:
            for handle in handles:
                handle.remove()
