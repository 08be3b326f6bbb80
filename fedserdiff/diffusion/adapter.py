"""The site adapter h: a voxel-wise contrast translator in front of one hospital's student."""

from itertools import product

import torch
from torch import nn

_HIDDEN = 32


class SiteAdapter(nn.Module):
    """A network h(c) = s · c + MLP(c) at every brain voxel, 0 outside, that makes scanners look alike (our choice).

    It sees one voxel at a time, so it can change only contrast, not shape or position. It has some 1,300 weights. A new
    adapter is the identity. It works on slices and volumes alike.

    Attributes
    ----------
    signs : Tensor of shape (modalities,)
        s, 1 or −1 for each modality; gradient descent alone would not find an inverted contrast.
    """

    signs: torch.Tensor

    def __init__(self, modalities: int) -> None:
        super().__init__()
        last = nn.Linear(_HIDDEN, modalities)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(
            nn.Linear(modalities, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(), last
        )
        self.register_buffer("signs", torch.ones(modalities))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Translate images of shape (B, 4, *grid), 0 outside the brain."""
        voxels = image.movedim(1, -1)
        brain = (voxels != 0).any(-1, keepdim=True)
        translated: torch.Tensor = (
            self.signs * voxels + self.residual(voxels)
        ) * brain  # same amount of work for every scan
        return translated.movedim(-1, 1).contiguous()


def all_signs(modalities: int) -> list[torch.Tensor]:
    """Return all combinations of signs, each of shape (modalities,); the first inverts nothing."""
    return [torch.tensor(signs) for signs in product((1.0, -1.0), repeat=modalities)]
