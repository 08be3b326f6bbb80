"""One optimisation step of a student: a function of tensors, the same for all methods."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fedserdiff.compilation import as_asked
from fedserdiff.diffusion.draws import Draws
from fedserdiff.diffusion.lesson import Lesson, in_passes, shares
from fedserdiff.diffusion.objective import Seen, Terms, coarse_terms, draws_for, refiner_terms
from fedserdiff.diffusion.precision import gradient_scaler
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.training import Training
from fedserdiff.threads import beside
from sites.averages import Average
from sites.objectives.base import DISTILLATION, Objective

Losses = dict[str, torch.Tensor]
"""Weighted loss terms by name, as scalar tensors."""


class Learners:
    """Training of a student's two networks, with a new Adam optimiser and a new average of their weights.

    The networks share no gradient. On a CPU, the coarse network therefore works on the next step while the refiner
    still learns from the last one.

    Parameters
    ----------
    student : Student
        Student in training mode.
    objective : Objective
    device : torch.device
        Device of the student.
    """

    def __init__(self, student: Student, objective: Objective, device: torch.device) -> None:
        self._coarse, self._refiner = (_Learner(name, student, objective, device) for name in ("coarse", "refiner"))
        self._most, self._device = objective.config.training.samples_a_pass, device
        self._under_way: Future[Losses] | None = None

    def take(self, lessons: Mapping[str, Lesson], step: int, share: float) -> Callable[[], Losses]:
        """Take a step at a `share` of the learning rates; return a function that waits for its end and returns its
        terms.

        Every second step perturbs P. Terms are float64. This method does not wait for a GPU.
        """
        passes = in_passes(lessons, self._most)
        of_coarse, seen = self._coarse.learn_masks(passes, share)
        self._wait()
        of_refiner = beside(self._device, self._refiner.learn_refinement, passes, seen, step % 2 == 1, share)
        self._under_way = of_refiner
        return lambda: sum_by_name(of_coarse, of_refiner.result())

    @contextmanager
    def as_scored(self) -> Iterator[None]:
        """Give the student, within the context, the weights that the round would return now."""
        self.finish()
        try:
            yield
        finally:
            self._exchange()

    def finish(self) -> None:
        """Wait for the last step and give the student the weights that a round returns: the average, if any."""
        self._wait()
        self._exchange()

    def _exchange(self) -> None:
        for learner in (self._coarse, self._refiner):
            learner.average.exchange()

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()


class _Learner:
    """Training of one of the student's networks.

    Attributes
    ----------
    average : Average
        Average of its weights and of those trained with it.
    """

    def __init__(self, network: str, student: Student, objective: Objective, device: torch.device) -> None:
        self._network, self._student, self._objective = network, student, objective
        training = objective.config.training
        groups = [
            *weight_groups(student.get_submodule(network), training),
            *objective.learns_beside(network, training.learning_rate),
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0, fused=True)  # without weight decay this is Adam
        self._weights = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        self._clip_norm, self.average = training.clip_norm, Average(self._weights, training.ema)
        machine = objective.config.machine
        self._coarse_losses, self._refiner_losses = as_asked(coarse_losses, machine), as_asked(refiner_losses, machine)
        self._scaler = gradient_scaler(objective.config.network.precision, device)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def learn_masks(self, passes: Sequence[Mapping[str, Lesson]], share: float) -> tuple[Losses, list[dict[str, Seen]]]:
        """Take a step of the coarse network on lessons; return its terms, and the inputs for the refiner's terms."""
        seen: list[dict[str, Seen]] = []

        def losses() -> Iterator[Losses]:
            for lessons in passes:
                of_pass, left = self._coarse_losses(self._student, self._objective, lessons)
                seen.append(left)
                yield of_pass

        return self._learn(passes, losses(), share), seen

    def learn_refinement(
        self, passes: Sequence[Mapping[str, Lesson]], seen: Sequence[Mapping[str, Seen]], perturb: bool, share: float
    ) -> Losses:
        """Take a step of the refiner on lessons and the coarse network's outputs for them; return its terms."""

        def losses() -> Iterator[Losses]:
            for lessons, left in zip(passes, seen, strict=True):
                draws = {name: draws_for(self._student, lesson, perturb) for name, lesson in lessons.items()}
                yield self._refiner_losses(self._student, self._objective, lessons, left, draws)

        return self._learn(passes, losses(), share)

    def _learn(self, passes: Sequence[Mapping[str, Lesson]], losses: Iterator[Losses], share: float) -> Losses:
        """Take a step at a share of the learning rates; return the step's terms in float64.

        This method does not wait for the device.
        """
        set_rates(self._optimizer, self._rates, share)
        self._optimizer.zero_grad()
        sums: Losses = {}
        for own, of_pass in zip(shares(passes), losses, strict=True):
            weighted = {name: own * value for name, value in of_pass.items()} if own < 1 else of_pass
            self._scaler.scale(torch.stack(list(weighted.values())).sum()).backward()
            sums = sum_by_name(sums, {name: value.detach().double() for name, value in weighted.items()})
        if self._clip_norm or self._objective.corrects:
            self._scaler.unscale_(self._optimizer)
        if self._objective.corrects:
            self._objective.correct(self._network, self._student)
        if self._clip_norm:
            nn.utils.clip_grad_norm_(self._weights, self._clip_norm)
        self._scaler.step(self._optimizer)  # skipped if gradients overflow in fp16; the scale is then reduced
        self._scaler.update()
        self.average.take()
        return sums


def coarse_losses(
    student: Student, objective: Objective, lessons: Mapping[str, Lesson]
) -> tuple[Losses, dict[str, Seen]]:
    """Return the coarse network's weighted terms and the inputs for the refiner's; a pure function of tensors."""
    found = {name: coarse_terms(student, lesson) for name, lesson in lessons.items()}
    losses = weighted_terms(objective, "coarse", student, {name: terms for name, (terms, _) in found.items()})
    return losses, {name: seen for name, (_, seen) in found.items()}


def refiner_losses(
    student: Student,
    objective: Objective,
    lessons: Mapping[str, Lesson],
    seen: Mapping[str, Seen],
    draws: Mapping[str, Draws],
) -> Losses:
    """Return the refiner's weighted terms; a pure function of tensors."""
    terms = {name: refiner_terms(student, lesson, seen[name], draws[name]) for name, lesson in lessons.items()}
    return weighted_terms(objective, "refiner", student, terms)


def weighted_terms(
    objective: Objective, network: str, student: Student, terms_of_lessons: Mapping[str, Terms]
) -> Losses:
    """Return, by name, one network's terms of the loss."""
    parts: list[Mapping[str, torch.Tensor]] = []
    for lesson, terms in terms_of_lessons.items():
        parts.append({lesson: objective.weight(lesson) * terms.segmentation})
        if terms.distillation is not None:
            parts.append({DISTILLATION: objective.weight(DISTILLATION) * terms.distillation})
    return sum_by_name(*parts, objective.penalties(network, student))


def sum_by_name(*parts: Mapping[str, torch.Tensor]) -> Losses:
    """Add up the values under each name, for several lessons or for the two networks."""
    sums: Losses = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def weight_groups(network: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Return a network's weights as optimiser groups: those with weight decay, if any, and the others.

    Weights with at least two dimensions decay; norm scales and biases have one dimension.
    """
    weights, rate = list(network.parameters()), training.learning_rate
    if not training.weight_decay:
        return [{"params": weights, "lr": rate}]
    decaying, others = ([w for w in weights if (w.ndim > 1) == decays] for decays in (True, False))
    return [
        {"params": decaying, "lr": rate, "weight_decay": training.weight_decay},
        {"params": others, "lr": rate},
    ]


def rate_at(step: int, steps: int, warmup: float = 0.0) -> float:
    """Return the learning rate at a step of a stage (from 0), as a share of its peak.

    It rises linearly over the stage's share `warmup` and then falls to 0 by a cosine. It is above 0 at the first step
    (our choice), because Adam's first step is as long as any other.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * ((step - rising) / (steps - rising)))) / 2


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float], share: float) -> None:
    """Set the learning rate of each weight group to a share of its rate in `rates`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * share
