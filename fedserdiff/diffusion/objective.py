"""The dual loss L = L_seg + λ · L_KD, with L_KD over features at replayed error maps.

It consists of two halves, one per network, that share no gradient and can be computed concurrently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fedserdiff.diffusion.draws import Draws, draw
from fedserdiff.diffusion.lesson import Lesson, Replay
from fedserdiff.diffusion.losses import dice_bce_with_logits, refined_loss
from fedserdiff.diffusion.refiner import Student, drop_context, perturb_boundary
from fedserdiff.diffusion.schedule import add_noise


@dataclass(frozen=True)
class Replayed:
    """The replayed input of the residual diffusion.

    Attributes
    ----------
    noisy, t, context : Tensor of shape (N, 3, *grid), (N,), (N, 10, *grid)
        Noised error maps, with the timestep and the context of each.
    teacher : Student
    gamma : float
    """

    noisy: torch.Tensor
    t: torch.Tensor
    context: torch.Tensor
    teacher: Student
    gamma: float

    @torch.no_grad()
    def features(self) -> list[torch.Tensor]:
        """Return the teacher's features on this input."""
        return self.teacher.denoise_features(self.noisy, self.t, self.context)[1]


@dataclass(frozen=True)
class Seen:
    """The output of the coarse network's half of a step that the refiner's half needs, without gradients.

    Attributes
    ----------
    image : Tensor of shape (B, 4, *grid)
        The lesson's images, as the networks see them.
    coarse : Tensor of shape (B, 3, *grid)
        P of these images.
    replayed : Replayed, optional
    """

    image: torch.Tensor
    coarse: torch.Tensor
    replayed: Replayed | None = None


@dataclass(frozen=True)
class Terms:
    """One network's half of the dual loss: the scalar terms of L_seg and, with distillation, of L_KD."""

    segmentation: torch.Tensor
    distillation: torch.Tensor | None = None


def coarse_terms(student: Student, lesson: Lesson) -> tuple[Terms, Seen]:
    """Return the coarse network's terms, (Dice + BCE)(P, y) and its feature distance, and what the refiner needs.

    The paper distils only its diffusion model. Here P is part of the context, so a coarse network that forgets would
    also spoil the refined mask (our choice).
    """
    own, replay, replayed = len(lesson.image), lesson.replay, None
    seen = images = lesson.image if lesson.adapter is None else lesson.adapter(lesson.image)
    of_coarse: list[torch.Tensor] = []
    if replay is not None:
        of_coarse, replayed = _replayed(replay)
        images = torch.cat([seen, replay.image])
    logits, features = student.coarse_features(images)
    distances = [] if replay is None else [_distance(features, own, of_coarse, replay.gamma)]
    if lesson.teacher is not None:
        with torch.no_grad():
            taught, of_teacher = lesson.teacher.coarse_features(seen[: lesson.taught])
        held = len(taught)
        if not lesson.outputs_alone:
            distances.append(feature_distance([feature[:held] for feature in features], of_teacher, lesson.gamma))
        distances.append(F.binary_cross_entropy_with_logits(logits[:held], torch.sigmoid(taught)))
    terms = Terms(dice_bce_with_logits(logits[:own], lesson.truth), _total(distances))
    return terms, Seen(seen.detach(), torch.sigmoid(logits[:own].detach()), replayed)


@torch.no_grad()
def _replayed(replay: Replay) -> tuple[list[torch.Tensor], Replayed]:
    """Return the teacher's coarse features on replayed images, and the refiner's replayed input."""
    logits, of_coarse = replay.teacher.coarse_features(replay.image)
    coarse = torch.sigmoid(logits)
    maps = replay.maps - coarse if replay.true_errors else replay.maps
    context = replay.teacher.context(replay.image, coarse)
    if replay.bank is not None:
        maps = torch.cat([maps, replay.bank])
        context = torch.cat([context, replay.teacher.null_context(len(replay.bank))])
    noisy = add_noise(maps, replay.noise, replay.t)
    return of_coarse, Replayed(noisy, replay.t, context, replay.teacher, replay.gamma)


def refiner_terms(student: Student, lesson: Lesson, seen: Seen, draws: Draws) -> Terms:
    """Return the residual diffusion's terms, (Dice + BCE)(ŷ, y) + ‖Ê − E‖² and its feature distance.

    The norm is a mean over voxels, like BCE. The BCE of ŷ is the loss that matches the function from the network's
    output to ŷ (`matching_loss`).

    Parameters
    ----------
    student : Student
        The model in training.
    lesson : Lesson
    seen : Seen
        From `coarse_terms`. Each network learns only from its own terms (our choice).
    draws : Draws
        With `bumps`, P is perturbed near its boundary before the diffusion sees it.
    """
    own, replayed = len(lesson.image), seen.replayed
    coarse = seen.coarse if draws.bumps is None else perturb_boundary(seen.coarse, draws.bumps)
    error = lesson.truth - coarse
    noisy, t = add_noise(error, draws.noise, draws.t), draws.t
    context = drop_context(student.context(seen.image, coarse, lesson.old_map), coarse.shape[1], draws.keep)
    if replayed is not None:
        pairs = ((noisy, replayed.noisy), (t, replayed.t), (context, replayed.context))
        noisy, t, context = (torch.cat(pair) for pair in pairs)
    corrections, features = student.denoise_features(noisy, t, context)
    correction = corrections[:own]
    estimate = torch.tanh(correction)
    distances = [] if replayed is None else [_distance(features, own, replayed.features(), replayed.gamma)]
    if lesson.teacher is not None:
        with torch.no_grad():
            samples = (part[:own][: lesson.taught] for part in (noisy, t, context))
            taught, of_teacher = lesson.teacher.denoise_features(*samples)
        held = len(taught)
        if not lesson.outputs_alone:
            distances.append(feature_distance([feature[:held] for feature in features], of_teacher, lesson.gamma))
        distances.append(F.mse_loss(estimate[:held], torch.tanh(taught)))
    return Terms(refined_loss(correction, coarse, lesson.truth) + F.mse_loss(estimate, error), _total(distances))


def draws_for(student: Student, lesson: Lesson, perturb: bool) -> Draws:
    """Draw the random numbers for the refiner's half of a step; `perturb` tells whether to perturb P."""
    return draw(lesson.truth.shape, student.drop_rates, perturb, lesson.noise)


def segmentation_loss(student: Student, lesson: Lesson, perturb: bool) -> torch.Tensor:
    """Return L_seg = (Dice + BCE)(P, y) + (Dice + BCE)(ŷ, y) + ‖Ê − E‖², the terms of both networks."""
    terms, seen = coarse_terms(student, lesson)
    draws = draws_for(student, lesson, perturb)
    return terms.segmentation + refiner_terms(student, lesson, seen, draws).segmentation


def squared_outputs(student: Student, lesson: Lesson) -> torch.Tensor:
    """Return the mean squares of P and Ê added up: how much the student answers on a lesson, right or wrong."""
    logits, _ = student.coarse_features(lesson.image)
    probabilities = torch.sigmoid(logits)
    coarse = probabilities.detach()
    draws = draws_for(student, lesson, perturb=False)
    noisy = add_noise(lesson.truth - coarse, draws.noise, draws.t)
    correction, _ = student.denoise_features(noisy, draws.t, student.context(lesson.image, coarse, lesson.old_map))
    return probabilities.square().mean() + torch.tanh(correction).square().mean()


def _total(distances: Sequence[torch.Tensor]) -> torch.Tensor | None:
    return torch.stack(list(distances)).sum() if distances else None


def _distance(
    features: Sequence[torch.Tensor], own: int, teacher: Sequence[torch.Tensor], gamma: float
) -> torch.Tensor:
    """Return the feature distance on replayed samples, which follow the `own` samples in the batch."""
    return feature_distance([feature[own:] for feature in features], teacher, gamma)


def feature_distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], gamma: float) -> torch.Tensor:
    """Return Σ_layers ‖h_S − h_T‖²/‖h_T‖² + γ‖Cov h_S − Cov h_T‖²_F/‖Cov h_T‖²_F, which is 0 if S = T.

    Each feature has shape (B, C, *grid). Covariances are over channels, with every position of every sample as one
    observation.
    """
    terms = []
    for s, t in zip((f.float() for f in student), (f.float() for f in teacher), strict=True):
        terms.append(_relative_square(s, t))
        if gamma > 0:
            terms.append(gamma * _relative_square(_covariance(s), _covariance(t)))
    return torch.stack(terms).sum()


def _relative_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().sum() / b.square().sum().clamp(min=1e-12)


def _covariance(features: torch.Tensor) -> torch.Tensor:
    """Return the (C, C) covariance of features of shape (B, C, *grid)."""
    observations = features.transpose(0, 1).flatten(1)
    centred = observations - observations.mean(1, keepdim=True)
    return centred @ centred.T / (observations.shape[1] - 1)
