"""Update inversion in ``fedserdiff audit privacy``: can a slice be reconstructed from a change of the weights?"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import nn

from fedserdiff import wire
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.preprocess import CaseArrays
from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.refiner import Student
from fedserdiff.experiments.privacy_audit.attacks import DENSE, INVERSION, OTHERS, Finding, Resemblance, finding
from fedserdiff.experiments.privacy_audit.models import Target, items, patients_of, rng_for, train
from fedserdiff.privacy.reconstruction import Gradient, correlation, reconstruct, similarity
from fedserdiff.privacy.scores import mean_of
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.training import one_round
from sites.local_privacy import privatised, simulated_key

EXACT, ONE_STEP, ROUND = "gradient of a slice", "step on a slice", "round"
_SLICES = 4  # one slice from each of so many patients
_STEPS = 100
_NOISE = 1e-3  # noise in sensitivities if the run has none: each update is also attacked with noise
_HIDDEN = 64  # hidden units of the dense network


@dataclass(frozen=True)
class _Slice:
    """A slice of a training patient, or the volume in 3D, with a `case` that contains nothing else.

    `image` (1, 4, *grid) is what the student sees, after the adapter; `truth` has shape (1, 3, *grid).
    """

    case: CachedCase
    image: torch.Tensor
    truth: torch.Tensor

    @property
    def inside(self) -> torch.Tensor:
        return (self.image != 0).any(1, keepdim=True).float()


@dataclass(frozen=True)
class _Network:
    """What an attacker differentiates: the logits of an image, and the weights that they depend on."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    weights: Sequence[nn.Parameter]

    def gradient_at(self, truth: torch.Tensor) -> Gradient:
        def gradient(image: torch.Tensor) -> Sequence[torch.Tensor]:
            loss = dice_bce_with_logits(self.logits(image), truth)
            return torch.autograd.grad(loss, self.weights, create_graph=True)

        return gradient

    def exact(self, one: _Slice) -> list[torch.Tensor]:
        return [part.detach() for part in self.gradient_at(one.truth)(one.image)]


def attack_updates(target: Target, config: Settings) -> Iterator[Finding]:
    """Reconstruct slices from the gradient of a slice, a step on a slice and a round, without and with noise.

    The attacker knows each slice's truth and outline.
    """
    slices = _slices(target, config)
    if len(slices) < 2:
        return
    start = _start(target, config)
    attacked, coarse = slices[:_SLICES], _coarse(start)
    yield _attack(EXACT, [coarse.exact(one) for one in attacked], coarse, slices, target, config)
    once = one_round(config.training, config.method)
    step = config.replace(
        {"training.steps_per_stage": 1, "training.epochs_per_stage": 0, "training.batch_size": 1, **once}
    )
    lengths = ("training.steps_per_stage", "training.epochs_per_stage")
    a_round = {name: -(-config.value(name) // config.rounds) for name in lengths}
    whole = _change(start, target.hospital.training, config.replace({**a_round, **once}), target)
    key = simulated_key(config, target.hospital.site.name)
    noisy = config.replace({"privacy.dp_noise": config.privacy.dp_noise or _NOISE}, method="fine-tune")
    for channel, changes in (
        (ONE_STEP, [_change(start, [one.case], step, target) for one in attacked]),
        (ROUND, [whole] * len(attacked)),
    ):
        yield _attack(channel, [_told(start, c) for c in changes], coarse, slices, target, config)
        told = [_told(start, privatised(c, noisy, key)) for c in changes]
        yield _attack(f"{channel}, noise {noisy.privacy.dp_noise:g}", told, coarse, slices, target, config)


def control_updates(target: Target, config: Settings) -> Iterator[Finding]:
    """Attack a dense network, whose gradient reveals its input, and attack with the gradient of another slice."""
    slices = _slices(target, config)
    if len(slices) < 2:
        return
    attacked = slices[:_SLICES]
    dense = _dense(slices[0], config)
    yield _attack(DENSE, [dense.exact(one) for one in attacked], dense, slices, target, config)
    coarse = _coarse(_start(target, config))
    wrong = [coarse.exact(one) for one in (*attacked[1:], attacked[0])]
    yield _attack(OTHERS, wrong, coarse, slices, target, config)


def _attack(
    channel: str,
    told: Sequence[Sequence[torch.Tensor]],
    network: _Network,
    slices: Sequence[_Slice],
    target: Target,
    config: Settings,
) -> Finding:
    """Reconstruct the first slices from their updates; score whether each resembles its own slice more than others."""
    attacked = slices[: len(told)]
    found = [
        (reconstruct(update, network.gradient_at(one.truth), one.inside, len(config.data.modalities), _STEPS), one)
        for update, one in zip(told, attacked, strict=True)
    ]
    mean = torch.cat([one.image for one in slices[len(told) :] or slices]).mean(0, keepdim=True)
    own = [np.array([correlation(image, one.image)]) for image, one in found]
    others = [
        np.array([correlation(image, other.image) for other in slices if other is not one]) for image, one in found
    ]
    rng = rng_for(config, channel, INVERSION, target.stage)
    resembles = Resemblance(
        mean_of([similarity(image, one.image) for image, one in found], rng),
        mean_of([similarity(mean * one.inside, one.image) for one in attacked], rng),
    )
    return finding(channel, INVERSION, target, own, others, rng, resemblance=resembles)


def _slices(target: Target, config: Settings) -> list[_Slice]:
    """Return the slice with most tumour of each training patient."""
    found = []
    for cases in patients_of(target.hospital.training):
        case = _alone(cases[0], config)
        image, truth = items([case], config, target.device)
        found.append(_Slice(case, image if target.adapter is None else target.adapter(image).detach(), truth))
    return found


def _alone(cached: CachedCase, config: Settings) -> CachedCase:
    """Return the case with all but one slice emptied; unchanged in 3D."""
    if config.data.spatial_dims == 3:
        return cached
    whole, masks = cached.prepared.image, cached.prepared.mask
    image, mask = np.zeros_like(whole), np.zeros_like(masks)
    z = int((masks if masks.any() else whole != 0).sum((0, 1, 2)).argmax())
    image[..., z], mask[..., z] = whole[..., z], masks[..., z]
    return replace(cached, prepared=CaseArrays.showing(cached.prepared, image, mask))


def _start(target: Target, config: Settings) -> Student:
    """Return the student at the start of the round.

    In an untrained student, all gradients except the last layer's are 0; in stage 1 the student at the stage's end is
    used instead.
    """
    student = Student(config.replace({"network.precision": "fp32"})).to(target.device)
    student.load_state_dict((target.before if target.stage > 1 else target.student).state_dict())
    return student.eval()


def _coarse(student: Student) -> _Network:
    """Return the coarse network, which sees only the scan; the refiner's noisy gradient revealed less (measured)."""
    return _Network(student.coarse_logits, list(student.coarse.parameters()))


def _dense(one: _Slice, config: Settings) -> _Network:
    voxels = one.inside.numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng_for(config, "dense").integers(2**31)))
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(len(config.data.modalities) * voxels, _HIDDEN),
            nn.Sigmoid(),
            nn.Linear(_HIDDEN, len(config.data.regions) * voxels),
            nn.Unflatten(1, one.truth.shape[1:]),
        )
    network.to(one.image.device)
    return _Network(network, list(network.parameters()))


def _change(start: Student, cases: Sequence[CachedCase], config: Settings, target: Target) -> ArrayRecord:
    """Return the change that a hospital would send after training only on these cases."""
    trained = train(start, cases, config, "update", target.adapter)
    return wire.change_to_record(trained, wire.weights_to_record(start))


def _told(start: Student, change: ArrayRecord) -> list[torch.Tensor]:
    """Return the coarse network's gradient as a change reveals it: the negative of the weight change."""
    moved = deepcopy(start)
    wire.load_weights(moved, wire.changed(wire.weights_to_record(start), change))
    pairs = zip(start.coarse.parameters(), moved.coarse.parameters(), strict=True)
    return [(before - after).detach() for before, after in pairs]
