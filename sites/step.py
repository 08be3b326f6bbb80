"""One optimisation step of a student: a function of tensors, the same for every method."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import torch

from fedserdiff.compilation import as_asked
from fedserdiff.diffusion.draws import Draws
from fedserdiff.diffusion.lesson import Lesson, in_passes, shares
from fedserdiff.diffusion.objective import Seen, Terms, coarse_terms, draws_for, refiner_terms
from fedserdiff.diffusion.precision import gradient_scaler
from fedserdiff.diffusion.refiner import Student
from fedserdiff.threads import beside
from sites.objectives.base import DISTILLATION, Objective

Losses = dict[str, torch.Tensor]
"""Weighted terms of the loss by name, scalars."""


class Learners:
    """A student's two networks in training. Adam starts afresh.

    They share no gradient: on a CPU the coarse network is at the next step while the refiner learns of the last one.

    Parameters
    ----------
    student : Student
        In training mode.
    objective : Objective
    device : torch.device
        Where the student is.
    """

    def __init__(self, student: Student, objective: Objective, device: torch.device) -> None:
        self._coarse, self._refiner = (_Learner(name, student, objective, device) for name in ("coarse", "refiner"))
        self._most, self._device = objective.config.training.samples_a_pass, device
        self._under_way: Future[Losses] | None = None

    def take(self, lessons: Mapping[str, Lesson], step: int, done: float) -> Callable[[], Losses]:
        """Take a step, at the share `done` of the stage; return what waits for its end and returns its terms.

        Every second step perturbs P. Terms are in float64; nothing here waits for a GPU.
        """
        passes = in_passes(lessons, self._most)
        of_coarse, seen = self._coarse.learn_masks(passes, done)
        if self._under_way is not None:
            self._under_way.result()
        of_refiner = beside(self._device, self._refiner.learn_refinement, passes, seen, step % 2 == 1, done)
        self._under_way = of_refiner
        return lambda: sum_by_name(of_coarse, of_refiner.result())


class _Learner:
    """One of the student's networks in training."""

    def __init__(self, network: str, student: Student, objective: Objective, device: torch.device) -> None:
        self._student, self._objective = student, objective
        rate = objective.config.training.learning_rate
        own = {"params": list(student.get_submodule(network).parameters()), "lr": rate}
        self._optimizer = torch.optim.Adam([own, *objective.learns_beside(network, rate)], fused=True)
        machine = objective.config.machine
        self._coarse_losses, self._refiner_losses = as_asked(coarse_losses, machine), as_asked(refiner_losses, machine)
        self._scaler = gradient_scaler(objective.config.network.precision, device)
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def learn_masks(self, passes: Sequence[Mapping[str, Lesson]], done: float) -> tuple[Losses, list[dict[str, Seen]]]:
        """Take a step of the coarse network on a step's lessons; return its terms, and what the refiner's need."""
        seen: list[dict[str, Seen]] = []

        def losses() -> Iterator[Losses]:
            for lessons in passes:
                of_pass, left = self._coarse_losses(self._student, self._objective, lessons)
                seen.append(left)
                yield of_pass

        return self._learn(passes, losses(), done), seen

    def learn_refinement(
        self, passes: Sequence[Mapping[str, Lesson]], seen: Sequence[Mapping[str, Seen]], perturb: bool, done: float
    ) -> Losses:
        """Take a step of the refiner on lessons and what the coarse network saw of each; return its terms."""

        def losses() -> Iterator[Losses]:
            for lessons, left in zip(passes, seen, strict=True):
                draws = {name: draws_for(self._student, lesson, perturb) for name, lesson in lessons.items()}
                yield self._refiner_losses(self._student, self._objective, lessons, left, draws)

        return self._learn(passes, losses(), done)

    def _learn(self, passes: Sequence[Mapping[str, Lesson]], losses: Iterator[Losses], done: float) -> Losses:
        """Take a step at the share `done` of the stage; return the terms that it was taken by, in float64.

        Nothing here waits for the device.
        """
        anneal(self._optimizer, self._rates, done)
        self._optimizer.zero_grad()
        sums: Losses = {}
        for own, of_pass in zip(shares(passes), losses, strict=True):
            weighted = {name: own * value for name, value in of_pass.items()} if own < 1 else of_pass
            self._scaler.scale(torch.stack(list(weighted.values())).sum()).backward()
            sums = sum_by_name(sums, {name: value.detach().double() for name, value in weighted.items()})
        self._scaler.step(self._optimizer)  # not where gradients overflow in fp16: the next ones are scaled by less
        self._scaler.update()
        return sums


def coarse_losses(
    student: Student, objective: Objective, lessons: Mapping[str, Lesson]
) -> tuple[Losses, dict[str, Seen]]:
    """Return the coarse network's weighted terms, and what the refiner's need: a function of tensors alone."""
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
    """Return the refiner's weighted terms: a function of tensors alone."""
    terms = {name: refiner_terms(student, lesson, seen[name], draws[name]) for name, lesson in lessons.items()}
    return weighted_terms(objective, "refiner", student, terms)


def weighted_terms(
    objective: Objective, network: str, student: Student, terms_of_lessons: Mapping[str, Terms]
) -> Losses:
    """Return, by name, one network's share of the terms whose sum is minimised."""
    parts: list[Mapping[str, torch.Tensor]] = []
    for lesson, terms in terms_of_lessons.items():
        parts.append({lesson: objective.weight(lesson) * terms.segmentation})
        if terms.distillation is not None:
            parts.append({DISTILLATION: objective.weight(DISTILLATION) * terms.distillation})
    return sum_by_name(*parts, objective.penalties(network, student))


def sum_by_name(*parts: Mapping[str, torch.Tensor]) -> Losses:
    """Add up what the parts have under each name: of several lessons, or of the two networks."""
    sums: Losses = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums[name] + value if name in sums else value
    return sums


def anneal(optimizer: torch.optim.Optimizer, rates: Sequence[float], done: float) -> None:
    """Set the rate of each group of weights that follows one cosine from its of `rates` to 0, at the share `done`."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * (1 + math.cos(math.pi * done)) / 2
