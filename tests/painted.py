"""Moments of lesions as a hospital would share them, for tests."""

import numpy as np
import torch

MEANS = torch.tensor([[-1.0, -2, 3, 2], [-0.5, 0, 2, 4], [0, 5, 1, 3]])
"""Means of the core, of oedema and of enhancing tumour."""

INSIDE = torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 1, 0]])
"""TC lies in WT, and ET in both."""


def moments(patients: float = 10, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """One hospital's: every patient has all classes, a half of the lesion oedema, a fifth necrosis, the rest rim."""
    extent = torch.tensor([[1.0, np.log(0.2), 0, 0.9], [1, np.log(0.5), 0, 0.2], [1, np.log(0.3), 0, 0.6]])
    values = {
        "means": MEANS,
        "between": torch.zeros(3, 4, 4),
        "within": 0.04 * torch.eye(4).repeat(3, 1, 1),
        "extent": extent,
        "inside": INSIDE,
        "size": torch.tensor([np.log(12.0), 0.0], dtype=torch.float32),
        "patients": torch.tensor([patients]),
    }
    return {name: changes.get(name, value)[None].float().clone() for name, value in values.items()}
