"""A coarse network that costs as many FLOPs as the whole refined prediction, for a comparison without diffusion."""

import bisect
from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings

_SCALES = [2 ** (step / 64) for step in range(6 * 64)]  # up to 64 times as wide: thousands of times the FLOPs
_LEAST_FEATURES = 8


def coarse_flops(config: Settings) -> int:
    """Return the FLOPs of the coarse mask of one slice (2D) or volume (3D).

    A multiply-add counts as two; normalisations and activations do not count (torch's `FlopCounterMode`).
    """
    return _count(config, lambda student, image: student.coarse_logits(image))


def refined_flops(config: Settings) -> int:
    """Return the FLOPs of the refined prediction of one slice or volume with the settings' K, as `coarse_flops`."""

    def predict(student: Student, image: torch.Tensor) -> object:
        return student.predict(image, config.scoring.sampling_steps, student.noise(1, torch.Generator()))

    return _count(config, predict)


def _count(config: Settings, run: Callable[[Student, torch.Tensor], object]) -> int:
    with FakeTensorMode(), torch.no_grad():  # only shapes: nothing is computed
        student = Student(config)
        image = torch.zeros(1, len(config.data.modalities), *student.spatial_shape)
        with FlopCounterMode(display=False) as counter:
            run(student, image)
    return int(counter.get_total_flops())


def coarse_only(config: Settings) -> Settings:
    """Return settings of the coarse network alone, with the smallest possible refiner, which runs once."""
    return config.replace(
        {
            "network.refiner_channels": (_LEAST_FEATURES,) * len(config.network.refiner_channels),
            "scoring.sampling_steps": 1,
        }
    )


def enlarged_coarse(config: Settings) -> Settings:
    """Return `coarse_only` with all levels widened by one factor, so that its FLOPs are closest to `refined_flops`.

    Features are multiples of 8, as the networks require.
    """
    alone, target = coarse_only(config), refined_flops(config)
    widths = list(dict.fromkeys(_widened(config.network.coarse_channels, scale) for scale in _SCALES))

    def flops(channels: tuple[int, ...]) -> int:
        return coarse_flops(alone.replace({"network.coarse_channels": channels}))

    wider = bisect.bisect_left(widths, target, key=flops)
    nearest = min(widths[max(wider - 1, 0) : wider + 1], key=lambda channels: abs(flops(channels) - target))
    return alone.replace({"network.coarse_channels": nearest})


def _widened(channels: tuple[int, ...], scale: float) -> tuple[int, ...]:
    return tuple(8 * max(1, round(c * scale / 8)) for c in channels)
