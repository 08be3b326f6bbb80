"""Contrast inversion: on arrival, a hospital learns to translate its scans to a look that the teacher segments well."""

import math
from collections.abc import Sequence

import torch

from fedserdiff.diffusion.adapter import SiteAdapter, all_signs
from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.precision import gradient_scaler
from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.ser_diff_plus import SerDiffPlusSettings
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import each
from sites.training_set import Batch, TrainingSet

_BATCHES_A_SIGN = 2

Slopes = dict[int, Sequence[torch.Tensor]]


def invert_contrast(
    teacher: Student, training_set: TrainingSet, config: Settings, draws: torch.Generator
) -> SiteAdapter:
    """Train the adapter h with which a frozen teacher segments the hospital's own scans: (Dice + BCE)(T(h(c)), y) →
    min.

    First, the sign of each modality is chosen that gives the lowest loss of the teacher: a contrast may be the inverse
    of the teacher's, and gradients alone do not always find that. Then Adam takes `inversion_steps` steps with a cosine
    schedule (our choice, measured: docs/explanation/retention.md). Of earlier hospitals, only the teacher's weights are
    used.

    Parameters
    ----------
    teacher : Student
        Frozen teacher, whose weights require no gradient.
    training_set : TrainingSet
        The hospital's own training set.
    config : Settings
    draws : torch.Generator
        CPU generator for batches and initial weights.
    """
    device = teacher.device
    own = SerDiffPlusSettings.of(config.method)
    batch_size = max(1, round(own.inversion_batch_share * config.training.batch_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.initial_seed())
        adapter = SiteAdapter(len(config.data.modalities)).to(device)
    batches = [training_set.batch(training_set.draw(batch_size, draws)) for _ in range(_BATCHES_A_SIGN)]
    with torch.no_grad():
        adapter.signs.copy_(
            min(all_signs(len(config.data.modalities)), key=lambda signs: _wrong(teacher, adapter, signs, batches))
        )
    weights = list(adapter.parameters())
    optimizer = torch.optim.Adam(weights, lr=own.inversion_rate, fused=True)
    scaler = gradient_scaler(config.network.precision, device)
    for step in range(own.inversion_steps):
        optimizer.param_groups[0]["lr"] = own.inversion_rate * (1 + math.cos(math.pi * step / own.inversion_steps)) / 2
        drawn = training_set.draw(batch_size, draws)
        halves = [half for half in (drawn[::2], drawn[1::2]) if len(half)]  # each half has the same share of tumour
        slopes: Slopes = {}

        def descend(number: int, halves: Sequence[torch.Tensor] = halves, slopes: Slopes = slopes) -> None:
            batch = training_set.batch(halves[number])
            loss = dice_bce_with_logits(teacher.coarse_logits(adapter(batch.image)), batch.truth)
            slopes[number] = torch.autograd.grad(scaler.scale(loss), weights)

        each(device, descend, range(len(halves)))
        for place, weight in enumerate(weights):
            weight.grad = torch.stack([slopes[number][place] for number in range(len(halves))]).mean(0)
        scaler.step(optimizer)
        scaler.update()
    return adapter


def _wrong(teacher: Student, adapter: SiteAdapter, signs: torch.Tensor, batches: list[Batch]) -> float:
    """Set the adapter's signs and return the teacher's loss with it."""
    adapter.signs.copy_(signs)
    return sum(float(dice_bce_with_logits(teacher.coarse_logits(adapter(b.image)), b.truth)) for b in batches)
