"""A reimplementation of the recipe of MONAI's BraTS tutorial for SegResNet.

The tutorial is brats_segmentation_3d of Project-MONAI/tutorials. Its crop is 224 × 224 × 144 voxels of 240 × 240 × 155;
here it is the same share of the working grid. The given minutes replace its 300 epochs, and its cosine falls to 0 over
them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.losses.dice import DiceLoss
from monai.networks.nets import SegResNet
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Prediction
from fedserdiff.settings.experiment import Settings
from sites.hospital import Hospital

from benchmarks.peers.budget import Budget
from benchmarks.peers.trained import Trained, as_prediction

_CROP, _OF = (224, 224, 144), (240, 240, 155)
_DIVISIBLE = 8  # halved three times
_RATE, _DECAY = 1e-4, 1e-5
_FLIPPED = 0.5  # probability along each axis
_INTENSITY = 0.1  # largest change by scale and by shift
_OVERLAP = 0.5


def train_segresnet(hospital: Hospital, config: Settings, budget: Budget) -> Trained:
    """Train on 3D crops, one patient per step, in mixed precision on a GPU."""
    draws = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    network = SegResNet(
        blocks_down=[1, 2, 2, 4],
        blocks_up=[1, 1, 1],
        init_filters=16,
        in_channels=len(config.data.modalities),
        out_channels=len(config.data.regions),
        dropout_prob=0.2,
    ).to(budget.device)
    loss = DiceLoss(smooth_nr=0, smooth_dr=1e-5, squared_pred=True, to_onehot_y=False, sigmoid=True)
    optimizer = torch.optim.Adam(network.parameters(), _RATE, weight_decay=_DECAY)
    mixed = budget.device.type == "cuda"
    scaler = torch.amp.GradScaler(budget.device.type, enabled=mixed)
    order: list[int] = []
    iterations = 0
    network.train()
    while (left := budget.left) > 0:
        order = order or draws.permutation(len(hospital.training)).tolist()
        image, truth = (
            torch.from_numpy(part)[None].to(budget.device)
            for part in changed(hospital.training[order.pop()], draws, config.data.grid)
        )
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 + math.cos(math.pi * (1 - left))) / 2
        optimizer.zero_grad()
        with torch.autocast(budget.device.type, enabled=mixed):
            value = loss(network(image), truth)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        iterations += 1
    used_s = budget.used_s
    network.eval()

    @torch.inference_mode()
    def predict(cached: CachedCase) -> Prediction:
        image = torch.from_numpy(cached.prepared.image.astype(np.float32))[None].to(budget.device)
        roi = [_DIVISIBLE * math.ceil(n / _DIVISIBLE) for n in config.data.grid]
        with torch.autocast(budget.device.type, enabled=mixed):
            logits = sliding_window_inference(image, roi, 1, network, overlap=_OVERLAP)
        assert isinstance(logits, torch.Tensor)
        return as_prediction(torch.sigmoid(logits[0].float()).cpu())

    return Trained(iterations, used_s, ("refined",), predict)


def changed(
    cached: CachedCase, draws: np.random.Generator, grid: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the image and region masks of a case, randomly cropped, flipped, scaled and shifted.

    As in the tutorial, one factor and one shift are drawn for all (z-scored) channels.
    """
    sides = crop_of(grid)
    starts = [int(draws.integers(0, n - side + 1)) for n, side in zip(grid, sides, strict=True)]
    box = (slice(None), *(slice(start, start + side) for start, side in zip(starts, sides, strict=True)))
    flipped = tuple(axis for axis in (1, 2, 3) if draws.random() < _FLIPPED)
    image = np.flip(np.asarray(cached.prepared.image)[box].astype(np.float32), flipped)
    truth = np.flip(np.asarray(cached.prepared.mask)[box].astype(np.float32), flipped)
    scale, shift = draws.uniform(-_INTENSITY, _INTENSITY, 2).astype(np.float32)
    return np.ascontiguousarray(image * (1 + scale) + shift), np.ascontiguousarray(truth)


def crop_of(grid: Sequence[int]) -> tuple[int, ...]:
    """Return the tutorial's crop: the same share of each side, rounded down to a multiple of 8, at least 8."""
    shares = zip(grid, _CROP, _OF, strict=True)
    return tuple(max(1, n * crop // of // _DIVISIBLE) * _DIVISIBLE for n, crop, of in shares)
