"""What a step learns from: the hospital's samples, and what is replayed with them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student


@dataclass(frozen=True)
class Replay:
    """Samples at which the student's features are held to a teacher's.

    The teacher's P of `image` is computed in the step: it is part of the context of the error maps, and its true errors
    may be the error maps.

    Attributes
    ----------
    image : Tensor of shape (M, 4, *grid)
        The hospital's own, as the networks see them.
    teacher : Student
        Frozen.
    gamma : float
        As `feature_distance`'s.
    t, noise : Tensor of shape (N,), (N, 3, *grid)
        Timesteps to which the error maps are noised, and the noise: of the maps of `image` first, then of `bank`.
    maps : Tensor of shape (M, 3, *grid)
        Error maps of `image`, in [−1, 1]; or its region masks, where those errors are replayed that P makes.
    true_errors : bool
        Whether they are.
    bank : Tensor of shape (N − M, 3, *grid), optional
        Error maps that come with a null context.
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
    """What a step learns from.

    What is replayed goes through each network in one pass with the samples: those of one pass do not see each other.

    Attributes
    ----------
    image : Tensor of shape (B, 4, *grid)
        The hospital's own.
    truth : Tensor of shape (B, 3, *grid)
        Region masks, 0 or 1, float32.
    noise : torch.Generator
        From which the step's `Draws` come; on the student's device.
    adapter : SiteAdapter, optional
        Translates `image` before any network sees it, and learns from the coarse network's terms.
    old_map : Tensor of shape (B, 3, *grid), optional
        The teacher's conditional maps Ê_old, zeros for samples without one.
    replay : Replay, optional
    teacher : Student, optional
        Frozen. The student is held to what it makes of the very samples of the lesson, features and outputs.
    outputs_alone : bool
        Whether it is held to the teacher's outputs and not to its features.
    taught : int, optional
        Of how many of them, the first ones; all by default.
    gamma : float
        As `feature_distance`'s, for what `teacher` makes of them.
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
    """Share lessons out among passes, of no more than `most` samples each where that can be.

    Every pass has its share of each lesson's samples, of those that a teacher teaches and of what is replayed, with at
    least one of each: the gradients of all passes, averaged, are those of the step but for what is a ratio of sums over
    the samples, such as Dice.

    Parameters
    ----------
    lessons : mapping of str to Lesson
    most : int
        Samples of a network at a time, what is replayed included; 0 is all.
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
    """Return which share of a step's samples each of its passes has."""
    samples = [sum(len(lesson.image) for lesson in lessons.values()) for lessons in passes]
    return [own / sum(samples) for own in samples]


def _sizes(lesson: Lesson) -> Sequence[int]:
    """Return how many there are of each kind of samples of which every pass has one."""
    sizes = [len(lesson.image)]
    if lesson.teacher is not None and lesson.taught is not None:
        sizes.append(lesson.taught)
    if lesson.replay is not None:
        sizes.append(len(lesson.replay.image))
    return sizes


def _share(lesson: Lesson, number: int, passes: int) -> Lesson:
    """Return every so-manyth sample of a lesson: those that show tumour come first, and so each pass has some."""
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
