"""A network of three convolutions, whose last hidden features can be distilled."""

from collections.abc import Sequence

import torch
from torch import nn


class Plain(nn.Module):
    """Convolutions of the images as they are; `scale` is a constant that no weight is."""

    scale: torch.Tensor

    def __init__(self, dims: int, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.register_buffer("scale", torch.tensor(2))
        self.body = nn.Sequential(
            convolution(in_channels, width, 3, padding=1),
            nn.ReLU(),
            convolution(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.head = convolution(width, out_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.with_features(image)[0]

    def with_features(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = self.body(image * self.scale)
        return self.head(features), [features]


def build(dims: int, in_channels: int, out_channels: int, grid: Sequence[int], *, width: int = 8) -> nn.Module:
    """Build the network; `width` is its one argument."""
    return Plain(dims, in_channels, out_channels, width)
