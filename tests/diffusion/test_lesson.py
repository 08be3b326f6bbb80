"""A step in several passes: the content of each pass, and the sum of all compared with halves computed by hand."""

from typing import Any

import pytest
import torch
from students import lively_student

from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.lesson import Lesson, Replay, in_passes, shares
from fedserdiff.diffusion.objective import coarse_terms, draws_for, refiner_terms
from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.objectives.base import Objective
from sites.step import Learners

CPU = torch.device("cpu")


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes}, method="fine-tune")


def a_lesson(samples: int, taught: int | None = None, teacher: Student | None = None, replayed: int = 0) -> Lesson:
    """A lesson whose samples, maps and draws are numbered by their values."""
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(samples, 4, 16, 24, generator=rng)
    truth = (torch.rand(samples, 3, 16, 24, generator=rng) < 0.3).float()
    replay = None
    if replayed and teacher is not None:
        t, noise = draw_noise((2 * replayed, 3, 16, 24), rng)
        maps, bank = (torch.rand(replayed, 3, 16, 24, generator=rng) for _ in range(2))
        replay = Replay(image[:replayed] + 1, teacher, 1.0, t, noise, maps, bank=bank)
    return Lesson(image, truth, rng, None, truth * 0.5, replay, teacher, taught)


@pytest.mark.parametrize(("most", "passes"), [(0, 1), (20, 1), (17, 1), (16, 2), (6, 3), (1, 4)])
def test_a_step_has_as_few_passes_as_do_and_each_has_some_of_everything(most: int, passes: int) -> None:
    """With 9 samples, 4 of them distilled, 4 conditional maps and 4 from the bank, 17 go through the refiner."""
    teacher = lively_student(smoke())
    lesson = a_lesson(9, taught=4, teacher=teacher, replayed=4)
    shared = [one["segmentation"] for one in in_passes({"segmentation": lesson}, most)]
    assert len(shared) == passes
    for name in ("image", "truth", "old_map"):
        parts = [getattr(one, name) for one in shared]
        assert all(len(part) for part in parts)
        together = torch.cat(parts).flatten(1).sort(0).values
        assert torch.equal(together, getattr(lesson, name).flatten(1).sort(0).values)
    assert sum(one.taught or 0 for one in shared) == 4
    assert all(one.taught for one in shared)
    taught = torch.cat([one.image[: one.taught] for one in shared])
    assert torch.equal(taught.flatten(1).sort(0).values, lesson.image[:4].flatten(1).sort(0).values)
    of_map = {float(m.sum()): (int(t), float(n.sum())) for m, t, n in all_replayed([lesson])}
    assert {float(m.sum()): (int(t), float(n.sum())) for m, t, n in all_replayed(shared)} == of_map
    assert len(of_map) == 8


def all_replayed(lessons: list[Lesson]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Each replayed map with its timestep and noise."""
    found = []
    for lesson in lessons:
        replay = lesson.replay
        assert replay is not None
        assert replay.bank is not None
        found.extend(zip(torch.cat([replay.maps, replay.bank]), replay.t, replay.noise, strict=True))
    return found


def test_what_has_no_two_samples_of_a_kind_stays_one_pass() -> None:
    lesson = a_lesson(8, taught=1, teacher=lively_student(smoke()))
    assert in_passes({"segmentation": lesson}, 2) == [{"segmentation": lesson}]


def test_a_step_in_two_passes_has_the_mean_gradient_of_both_by_their_samples() -> None:
    """Five samples in passes of three and two: weights move as by the halves' own losses, weighed 3 to 2."""
    config = smoke(**{"training.samples_a_pass": 3, "training.learning_rate": 1e-3})
    student, lesson = lively_student(config), a_lesson(5)
    by_hand = lively_student(config)
    expected = torch.zeros(())
    rng = torch.Generator()
    rng.set_state(lesson.noise.get_state())
    for rows, weight in (([0, 2, 4], 0.6), ([1, 3], 0.4)):
        assert lesson.old_map is not None
        half = Lesson(lesson.image[rows], lesson.truth[rows], rng, old_map=lesson.old_map[rows])
        terms, seen = coarse_terms(by_hand, half)
        of_refiner = refiner_terms(by_hand, half, seen, draws_for(by_hand, half, True))
        expected = expected + weight * (terms.segmentation + of_refiner.segmentation)
    expected.backward()  # type: ignore[no-untyped-call]

    learners = Learners(student.train(), Objective(config), CPU)
    terms_taken = learners.take({"segmentation": lesson}, 1, 1.0)()

    assert float(terms_taken["segmentation"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert shares(in_passes({"segmentation": lesson}, 3)) == [0.6, 0.4]
    for weight_now, weight_before in zip(student.parameters(), by_hand.parameters(), strict=True):
        assert weight_before.grad is not None
        moved, slope = (weight_now - weight_before).detach(), weight_before.grad
        steep = slope.abs() > 1e-4
        # Adam's first step is the rate against the gradient's sign
        torch.testing.assert_close(moved[steep], -1e-3 * slope[steep].sign(), atol=1e-5, rtol=1e-2)


@pytest.mark.parametrize("dims", [2, 3])
def test_checkpointing_changes_no_gradient(dims: int) -> None:
    rng = torch.Generator().manual_seed(0)

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        config = smoke(**{"training.checkpointing": checkpointing, "data.spatial_dims": dims})
        student = lively_student(config).train()
        grid = config.data.grid[:dims]
        rng.manual_seed(0)
        lesson = Lesson(torch.randn(2, 4, *grid, generator=rng), torch.ones(2, 3, *grid), rng)
        terms, seen = coarse_terms(student, lesson)
        of_refiner = refiner_terms(student, lesson, seen, draws_for(student, lesson, True))
        (terms.segmentation + of_refiner.segmentation).backward()  # type: ignore[no-untyped-call]
        return [weight.grad for weight in student.parameters() if weight.grad is not None]

    kept, again = gradients(False), gradients(True)
    assert len(kept) > 50
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
