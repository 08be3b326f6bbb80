"""The dual loss: L = L_seg + λ · L_KD, with L_KD over features at replayed error maps.

It falls into two halves that share no gradient, one for each network: they may be computed side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fedserdiff.diffusion.losses import dice_bce_with_logits, refined_loss
from fedserdiff.diffusion.refiner import Student, drop_context, perturb_boundary, random_timesteps
from fedserdiff.diffusion.schedule import add_noise


@dataclass(frozen=True)
class Replay:
    """Samples at which the student's features are held to a teacher's, and the teacher's features there.

    Attributes
    ----------
    image : Tensor of shape (M, 4, *grid)
        Where the coarse network's are.
    of_coarse : list of Tensor
        The teacher's there.
    noisy, t, context : Tensor of shape (N, 3, *grid), (N,), (N, 10, *grid)
        Where the residual diffusion's are: error maps noised to random timesteps, and the context each came with.
    teacher : Student
        Frozen.
    gamma : float
        As `feature_distance`'s.
    """

    image: torch.Tensor
    of_coarse: list[torch.Tensor]
    noisy: torch.Tensor
    t: torch.Tensor
    context: torch.Tensor
    teacher: Student
    gamma: float

    @torch.no_grad()
    def of_refiner(self) -> list[torch.Tensor]:
        """Return the teacher's features of the residual diffusion's samples, computed where they are asked for."""
        return self.teacher.denoise_features(self.noisy, self.t, self.context)[1]


@dataclass(frozen=True)
class Lesson:
    """What a step learns from.

    What is replayed goes through each network in one pass with the samples: those of one pass do not see each other.

    Attributes
    ----------
    image : Tensor of shape (B, 4, *grid)
    truth : Tensor of shape (B, 3, *grid)
        Region masks, 0 or 1, float32.
    noise : torch.Generator
        For noise, timesteps and dropouts.
    old_map : Tensor of shape (B, 3, *grid), optional
        The teacher's conditional maps Ê_old, zeros for samples without one.
    replay : Replay, optional
        From `replay_of`.
    teacher : Student, optional
        Frozen. The student is held to what it makes of the very samples of the lesson, features and outputs.
    taught : int, optional
        Of how many of them, the first ones; all by default.
    gamma : float
        As `feature_distance`'s, for what `teacher` makes of them.
    """

    image: torch.Tensor
    truth: torch.Tensor
    noise: torch.Generator
    old_map: torch.Tensor | None = None
    replay: Replay | None = None
    teacher: Student | None = None
    taught: int | None = None
    gamma: float = 1.0


@dataclass(frozen=True)
class Terms:
    """One network's share of the dual loss, scalars: of L_seg and, where something is replayed, of L_KD."""

    segmentation: torch.Tensor
    distillation: torch.Tensor | None = None


def coarse_terms(student: Student, lesson: Lesson) -> tuple[Terms, torch.Tensor]:
    """Return the coarse network's share, (Dice + BCE)(P, y) and its features' distance, and P without its gradient.

    The paper distils its diffusion model alone. Here P is part of the context, and a coarse network free to forget
    would take the refined mask with it (our choice).
    """
    own, replay = len(lesson.image), lesson.replay
    images = lesson.image if replay is None else torch.cat([lesson.image, replay.image])
    logits, features = student.coarse_features(images)
    distances = [] if replay is None else [_distance(features, own, replay.of_coarse, replay.gamma)]
    if lesson.teacher is not None:
        with torch.no_grad():
            taught, of_teacher = lesson.teacher.coarse_features(lesson.image[: lesson.taught])
        held = len(taught)
        distances.append(feature_distance([feature[:held] for feature in features], of_teacher, lesson.gamma))
        distances.append(F.binary_cross_entropy_with_logits(logits[:held], torch.sigmoid(taught)))
    terms = Terms(dice_bce_with_logits(logits[:own], lesson.truth), _total(distances))
    return terms, torch.sigmoid(logits[:own].detach())


def refiner_terms(student: Student, lesson: Lesson, coarse: torch.Tensor, perturb: bool) -> Terms:
    """Return the residual diffusion's share, (Dice + BCE)(ŷ, y) + ‖Ê − E‖² and its features' distance.

    The norm is a mean over voxels, as BCE is. BCE of ŷ is the loss that matches how ŷ follows from the network's
    output (`matching_loss`).

    Parameters
    ----------
    student : Student
        The model in training.
    lesson : Lesson
    coarse : Tensor of shape (B, 3, *grid)
        P of the lesson's images, detached: each network learns from its own terms (our choice).
    perturb : bool
        Whether P is perturbed near its boundary before the diffusion sees it.
    """
    own, replay, noise = len(lesson.image), lesson.replay, lesson.noise
    seen = perturb_boundary(coarse, noise) if perturb else coarse
    error = lesson.truth - seen
    t, noisy = _noised(error, noise)
    context = drop_context(
        student.context(lesson.image.detach(), seen, lesson.old_map), seen.shape[1], student.drop_rates, noise
    )
    if replay is not None:
        pairs = ((noisy, replay.noisy), (t, replay.t), (context, replay.context))
        noisy, t, context = (torch.cat(pair) for pair in pairs)
    corrections, features = student.denoise_features(noisy, t, context)
    correction = corrections[:own]
    estimate = torch.tanh(correction)
    distances = [] if replay is None else [_distance(features, own, replay.of_refiner(), replay.gamma)]
    if lesson.teacher is not None:
        with torch.no_grad():
            samples = (part[:own][: lesson.taught] for part in (noisy, t, context))
            taught, of_teacher = lesson.teacher.denoise_features(*samples)
        held = len(taught)
        distances.append(feature_distance([feature[:held] for feature in features], of_teacher, lesson.gamma))
        distances.append(F.mse_loss(estimate[:held], torch.tanh(taught)))
    return Terms(refined_loss(correction, seen, lesson.truth) + F.mse_loss(estimate, error), _total(distances))


def segmentation_loss(student: Student, lesson: Lesson, perturb: bool) -> torch.Tensor:
    """Return L_seg = (Dice + BCE)(P, y) + (Dice + BCE)(ŷ, y) + ‖Ê − E‖², both networks' shares."""
    terms, coarse = coarse_terms(student, lesson)
    return terms.segmentation + refiner_terms(student, lesson, coarse, perturb).segmentation


def _total(distances: Sequence[torch.Tensor]) -> torch.Tensor | None:
    return torch.stack(list(distances)).sum() if distances else None


def _noised(maps: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random timesteps, one a map, and the maps noised to them."""
    t = random_timesteps(len(maps), generator).to(maps.device)
    return t, add_noise(maps, torch.randn(maps.shape, generator=generator).to(maps.device), t)


def _distance(
    features: Sequence[torch.Tensor], own: int, teacher: Sequence[torch.Tensor], gamma: float
) -> torch.Tensor:
    """Return the distance of features of what was replayed, which come after those of `own` samples."""
    return feature_distance([feature[own:] for feature in features], teacher, gamma)


def feature_distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], gamma: float) -> torch.Tensor:
    """Return Σ_layers ‖h_S − h_T‖²/‖h_T‖² + γ‖Cov h_S − Cov h_T‖²_F/‖Cov h_T‖²_F; 0 where S = T.

    Each feature has shape (B, C, *grid); covariances are over channels, with every position of every sample as an
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


@torch.no_grad()
def replay_of(
    teacher: Student,
    image: torch.Tensor,
    replayed: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    gamma: float,
    generator: torch.Generator,
) -> Replay:
    """Return what a teacher makes of samples: of images, and of error maps, noised to a random t.

    Parameters
    ----------
    teacher : Student
        Its features carry no gradient.
    image : Tensor of shape (M, 4, *grid)
        The hospital's own.
    replayed : callable
        Given the teacher's P of `image`, returns the error maps (N, 3, *grid) in [−1, 1] to replay, and the context
        (N, 10, *grid) each comes with; null for maps of the error bank.
    gamma : float
        As `feature_distance`'s.
    generator : torch.Generator
        For timesteps and noise.
    """
    logits, of_coarse = teacher.coarse_features(image)
    maps, context = replayed(torch.sigmoid(logits))
    t, noisy = _noised(maps, generator)
    return Replay(image, of_coarse, noisy, t, context, teacher, gamma)
