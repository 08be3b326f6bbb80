"""A voxel-wise translator of contrast, in front of a student at one hospital: the site adapter h."""

from itertools import product

import torch
from torch import nn

_HIDDEN = 32


class SiteAdapter(nn.Module):
    """h(c) = s · c + MLP(c) at every voxel of the brain, 0 outside: one look for scans of any scanner (our choice).

    It sees one voxel at a time, so it can change contrast and nothing else: no shape, no place. Some 1,300 weights. A
    new one changes nothing. Slices and volumes are the same to it.

    Attributes
    ----------
    signs : Tensor of shape (modalities,)
        s, 1 or −1 for each modality: an inverted contrast is where a gradient would not find the way.
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
        ) * brain  # the same work whatever a scan shows
        return translated.movedim(-1, 1).contiguous()


def all_signs(modalities: int) -> list[torch.Tensor]:
    """Return every choice of signs, none inverted first: each of shape (modalities,)."""
    return [torch.tensor(signs) for signs in product((1.0, -1.0), repeat=modalities)]
