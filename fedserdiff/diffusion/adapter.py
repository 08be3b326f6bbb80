"""A voxel-wise translator of contrast, in front of a student at one hospital: the site adapter h."""

from itertools import product

import torch
from monai.networks.layers.factories import Conv
from torch import nn

from fedserdiff.data.releases import MODALITIES

_HIDDEN = 32


class SiteAdapter(nn.Module):
    """h(c) = s · c + MLP(c) at every voxel of the brain, 0 outside: one look for scans of any scanner (our choice).

    It sees one voxel at a time, so it can change contrast and nothing else: no shape, no place. Some 1,300 weights.

    Parameters
    ----------
    spatial_dims : {2, 3}
        Slices or volumes.

    Attributes
    ----------
    signs : Tensor of shape (4,)
        s, 1 or −1 for each modality: an inverted contrast is where a gradient would not find the way.
    """

    signs: torch.Tensor

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        conv, modalities = Conv["conv", spatial_dims], len(MODALITIES)
        first, second, last = (
            conv(of, to, 1) for of, to in ((modalities, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, modalities))
        )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)
        self.register_buffer("signs", torch.ones(modalities))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Translate images of shape (B, 4, *grid), 0 outside the brain."""
        signs = self.signs.reshape(-1, *[1] * (image.ndim - 2))
        brain = (image != 0).any(1, keepdim=True)
        residual: torch.Tensor = self.residual(image)
        return (signs * image + residual) * brain


def all_signs() -> list[torch.Tensor]:
    """Return every choice of signs, none inverted first: each of shape (4,)."""
    return [torch.tensor(signs) for signs in product((1.0, -1.0), repeat=len(MODALITIES))]
