"""The input of a training step: the hospital's samples, and the samples replayed with them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student


@dataclass(frozen=True)
class Replay:
    """Samples on which the student's features are distilled from a teacher's.

    The step computes the teacher's P of `image`. P is part of the context of the error maps, and the error maps may be
    the true errors of P.

    Attributes
    ----------
    image : Tensor of shape (M, 4, *grid)
        The hospital's own images, as the networks see them.
    teacher : Student
        Frozen teacher.
    gamma : float
        As for `feature_distance`.
    t, noise : Tensor of shape (N,), (N, 3, *grid)
        Timesteps and noise for the error maps: first those of `image`, then those of `bank`.
    maps : Tensor of shape (M, 3, *grid)
        Error maps of `image`, in [−1, 1]; with `true_errors`, its region masks.
    true_errors : bool
        Whether to replay the true errors of P.
    bank : Tensor of shape (N − M, 3, *grid), optional
        Error maps that are replayed with the null context.
    """

    image: torch.Tensor
    teacher: Student
    gamma: float
    t: torch.Tensor
    noise: torch.Tensor
    maps: torch.Tensor
    true_errors: bool = False
    bank: torch.Tensor | None = None


@dataclass(frozen=True)
class Lesson:
    """The input of one training step.

    Replayed samples go through each network in the same pass as the hospital's samples. Samples of a pass do not
    influence each other.

    Attributes
    ----------
    image : Tensor of shape (B, 4, *grid)
        The hospital's own images.
    truth : Tensor of shape (B, 3, *grid)
        Region masks, 0 or 1, float32.
    noise : torch.Generator
        Generator for the step's `Draws`, on the student's device.
    adapter : SiteAdapter, optional
        Translates `image` before any network sees it; it is trained with the coarse network's terms.
    old_map : Tensor of shape (B, 3, *grid), optional
        The teacher's conditional error maps Ê_old; zeros for samples without one.
    replay : Replay, optional
    teacher : Student, optional
        Frozen teacher, whose features and outputs on the lesson's own samples the student is trained to match.
    outputs_alone : bool
        Whether to match only the teacher's outputs, not its features.
    taught : int, optional
        Number of samples, from the first, that are distilled from `teacher`; all by default.
    gamma : float
        As for `feature_distance`, for the features of `teacher`.
    """

    image: torch.Tensor
    truth: torch.Tensor
    noise: torch.Generator
    adapter: SiteAdapter | None = None
    old_map: torch.Tensor | None = None
    replay: Replay | None = None
    teacher: Student | None = None
    taught: int | None = None
    gamma: float = 1.0
    outputs_alone: bool = False


def in_passes(lessons: Mapping[str, Lesson], most: int) -> list[dict[str, Lesson]]:
    """Split lessons into passes of at most `most` samples each, if possible.

    Every pass gets a share of each lesson's samples, of its distilled samples and of its replayed samples, at least one
    of each kind. The average of the passes' gradients is the gradient of the step, except for terms that are a ratio of
    sums over samples, such as Dice.

    Parameters
    ----------
    lessons : mapping of str to Lesson
    most : int
        Samples per network pass, including replayed ones; 0 means all.
    """
    sizes = [size for lesson in lessons.values() for size in _sizes(lesson)]
    samples = sum(
        len(lesson.image) + (0 if lesson.replay is None else len(lesson.replay.t)) for lesson in lessons.values()
    )
    passes = min(math.ceil(samples / most) if most else 1, *sizes)
    if passes <= 1:
        return [dict(lessons)]
    return [{name: _share(lesson, n, passes) for name, lesson in lessons.items()} for n in range(passes)]


def shares(passes: Sequence[Mapping[str, Lesson]]) -> list[float]:
    """Return each pass's share of a step's samples."""
    samples = [sum(len(lesson.image) for lesson in lessons.values()) for lessons in passes]
    return [own / sum(samples) for own in samples]


def _sizes(lesson: Lesson) -> Sequence[int]:
    """Return the numbers of samples of each kind of which every pass needs at least one."""
    sizes = [len(lesson.image)]
    if lesson.teacher is not None and lesson.taught is not None:
        sizes.append(lesson.taught)
    if lesson.replay is not None:
        sizes.append(len(lesson.replay.image))
    return sizes


def _share(lesson: Lesson, number: int, passes: int) -> Lesson:
    """Return every `passes`-th sample of a lesson; tumour samples come first, so each pass gets some."""
    mine = slice(number, None, passes)
    return replace(
        lesson,
        image=lesson.image[mine],
        truth=lesson.truth[mine],
        old_map=None if lesson.old_map is None else lesson.old_map[mine],
        taught=None if lesson.taught is None else len(range(lesson.taught)[mine]),
        replay=None if lesson.replay is None else _share_of_replay(lesson.replay, mine),
    )


def _share_of_replay(replay: Replay, mine: slice) -> Replay:
    own = len(replay.maps)
    t, noise = (torch.cat([drawn[:own][mine], drawn[own:][mine]]) for drawn in (replay.t, replay.noise))
    bank = None if replay.bank is None else replay.bank[mine]
    return Replay(
        replay.image[mine], replay.teacher, replay.gamma, t, noise, replay.maps[mine], replay.true_errors, bank
    )
