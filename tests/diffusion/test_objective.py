import copy

import numpy as np
import pytest
import torch
from students import lively_student

from fedserdiff.diffusion.draws import draw_noise
from fedserdiff.diffusion.lesson import Lesson, Replay
from fedserdiff.diffusion.losses import dice_bce_with_logits, matching_loss
from fedserdiff.diffusion.objective import coarse_terms, draws_for, feature_distance, refiner_terms, segmentation_loss
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.diffusion.schedule import alpha_bar
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings


def smoke(**changes: object) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes})


@pytest.fixture
def features() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 3, 5), (2, 6, 6, 10)]
    return [torch.randn(s, generator=rng) for s in shapes], [torch.randn(s, generator=rng) for s in shapes]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_feature_distance_equals_plain_numpy(
    features: tuple[list[torch.Tensor], list[torch.Tensor]], gamma: float
) -> None:
    expected = 0.0
    for s, t in zip(*(([f.numpy().astype(float) for f in side]) for side in features), strict=True):
        expected += ((s - t) ** 2).sum() / (t**2).sum()
        # numpy's own covariance, one row a channel
        cov_s, cov_t = (np.cov(np.moveaxis(f, 1, 0).reshape(f.shape[1], -1)) for f in (s, t))
        expected += gamma * ((cov_s - cov_t) ** 2).sum() / (cov_t**2).sum()
    assert float(feature_distance(*features, gamma)) == pytest.approx(expected, rel=1e-4)


def test_feature_distance_is_zero_where_student_equals_teacher_and_finite_where_the_teacher_is_silent(
    features: tuple[list[torch.Tensor], list[torch.Tensor]],
) -> None:
    student, _ = features
    assert float(feature_distance(student, copy.deepcopy(student), 1.0)) == 0.0
    silent = [torch.zeros_like(f) for f in student]
    assert bool(torch.isfinite(feature_distance(student, silent, 1.0)))


def replay_by(teacher: Student, image: torch.Tensor, maps: torch.Tensor, bank: torch.Tensor | None = None) -> Replay:
    shape = (len(maps) + (0 if bank is None else len(bank)), *maps.shape[1:])
    return Replay(image, teacher, 1.0, *draw_noise(shape, torch.Generator().manual_seed(3)), maps, bank=bank)


def distances(student: Student, lesson: Lesson) -> list[torch.Tensor]:
    """The distillation of the coarse network and of the refiner."""
    of_coarse, seen = coarse_terms(student, lesson)
    of_refiner = refiner_terms(student, lesson, seen, draws_for(student, lesson, False))
    assert of_coarse.distillation is not None
    assert of_refiner.distillation is not None
    return [of_coarse.distillation, of_refiner.distillation]


@pytest.mark.parametrize("dims", [2, 3])
def test_distillation_of_a_student_by_itself_is_zero_and_by_another_is_not(dims: int) -> None:
    config = smoke(**{"data.spatial_dims": dims})
    student = lively_student(config)
    grid = config.data.grid[:dims]
    rng = torch.Generator().manual_seed(0)
    image, maps = torch.randn(2, 4, *grid, generator=rng), torch.rand(2, 3, *grid, generator=rng) * 2 - 1
    same, other = copy.deepcopy(student), new_student(config.replace(seed=9))

    def learnt(teacher: Student) -> list[float]:
        replay = replay_by(teacher, image, maps)
        lesson = Lesson(image, torch.zeros_like(maps), torch.Generator(), replay=replay)
        return [float(distance.detach()) for distance in distances(student, lesson)]

    assert learnt(same) == pytest.approx([0, 0], abs=1e-9)  # other samples of the pass may change rounding
    assert all(distance > 0.01 for distance in learnt(other))


def test_gradients_reach_the_student_and_never_the_teacher() -> None:
    config = smoke()
    student, teacher = lively_student(config), lively_student(config.replace(seed=5))
    rng = torch.Generator().manual_seed(0)
    image, maps = torch.randn(2, 4, 16, 24, generator=rng), torch.rand(2, 3, 16, 24, generator=rng)
    replay = replay_by(teacher, image, maps, maps)
    for distance in distances(student, Lesson(image, torch.zeros_like(maps), rng, replay=replay)):
        distance.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    reached = {n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"coarse", "refiner"}


def test_what_is_replayed_does_not_change_what_the_batch_teaches() -> None:
    """One pass serves both: the batch's terms are those of the batch alone, and the other way round."""
    config = smoke()
    student, teacher = lively_student(config), lively_student(config.replace(seed=5))
    rng = torch.Generator().manual_seed(0)
    image, maps = torch.randn(3, 4, 16, 24, generator=rng), torch.rand(2, 3, 16, 24, generator=rng) * 2 - 1
    bank = torch.rand(3, 3, 16, 24, generator=rng) * 2 - 1
    truth = (torch.rand(3, 3, 16, 24, generator=rng) < 0.3).float()
    replay = replay_by(teacher, image[:2], maps, bank)

    def segmentation(with_replay: bool) -> float:
        noise = torch.Generator().manual_seed(1)
        lesson = Lesson(image, truth, noise, replay=replay if with_replay else None)
        return float(segmentation_loss(student, lesson, True).detach())

    assert segmentation(True) == pytest.approx(segmentation(False), rel=1e-5)
    found = distances(student, Lesson(image, truth, torch.Generator(), replay=replay))
    with torch.no_grad():
        logits, of_coarse = teacher.coarse_features(image[:2])
        context = torch.cat([teacher.context(image[:2], torch.sigmoid(logits)), torch.zeros(3, 10, 16, 24)])
        alpha = alpha_bar(replay.t).reshape(-1, 1, 1, 1)
        noisy = alpha.sqrt() * torch.cat([maps, bank]) + (1 - alpha).sqrt() * replay.noise
        of_refiner = [one.denoise_features(noisy, replay.t, context)[1] for one in (student, teacher)]
        alone = [
            feature_distance(student.coarse_features(image[:2])[1], of_coarse, 1.0),
            feature_distance(*of_refiner, 1.0),
        ]
    assert [float(d) for d in found] == pytest.approx([float(d) for d in alone], rel=1e-4)


def test_segmentation_terms_follow_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terms, recomputed from the student's own outputs under the same noise."""
    config = smoke()
    student = lively_student(config)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(4, 4, 16, 24, generator=rng)
    truth = (torch.rand(4, 3, 16, 24, generator=rng) < 0.3).float()
    seen: dict[str, torch.Tensor] = {}
    real = student.denoise_features

    def spy(noisy: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        correction, features = real(noisy, *others)
        seen.update(noisy=noisy, correction=correction)
        return correction, features

    monkeypatch.setattr(student, "denoise_features", spy)
    lesson = Lesson(image, truth, torch.Generator().manual_seed(7))
    of_coarse, left = coarse_terms(student, lesson)
    of_refiner = refiner_terms(student, lesson, left, draws_for(student, lesson, False))
    logits = student.coarse_logits(image).detach()
    p = torch.sigmoid(logits)
    assert torch.equal(left.coarse, p)
    assert torch.allclose(of_coarse.segmentation, dice_bce_with_logits(logits, truth))
    drawn = torch.Generator().manual_seed(7)  # the same draws, in the order of the definition
    t = torch.randint(0, 1000, (4,), generator=drawn)
    noise = torch.randn(truth.shape, generator=drawn)
    alpha = alpha_bar(t).reshape(-1, 1, 1, 1)
    assert torch.allclose(seen["noisy"], alpha.sqrt() * (truth - p) + (1 - alpha).sqrt() * noise, atol=1e-5)
    estimate = torch.tanh(seen["correction"])
    mask = (p + estimate).clamp(0, 1)
    overlap, sizes = (mask * truth).sum((0, 2, 3)), (mask + truth).sum((0, 2, 3))
    dice = float(1 - ((2 * overlap + 1) / (sizes + 1)).mean())
    error = float(((estimate - (truth - p)) ** 2).mean())
    matching = float(matching_loss(seen["correction"], p, truth))
    assert float(of_refiner.segmentation) == pytest.approx(dice + matching + error, rel=1e-5)
    again = segmentation_loss(student, Lesson(image, truth, torch.Generator().manual_seed(7)), False)
    total = of_coarse.segmentation + of_refiner.segmentation
    assert float(again.detach()) == pytest.approx(float(total.detach()), rel=1e-6)


def test_the_refiners_terms_do_not_train_the_coarse_network_nor_the_other_way_round() -> None:
    config = smoke()
    student = lively_student(config)
    image = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    lesson = Lesson(image, torch.zeros(2, 3, 16, 24), torch.Generator())

    def reached() -> set[str]:
        return {n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}

    of_coarse, seen = coarse_terms(student, lesson)
    of_coarse.segmentation.backward()  # type: ignore[no-untyped-call]
    assert reached() == {"coarse"}
    student.zero_grad()
    refiner_terms(student, lesson, seen, draws_for(student, lesson, True)).segmentation.backward()  # type: ignore[no-untyped-call]
    assert reached() == {"refiner"}
