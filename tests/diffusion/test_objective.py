import copy

import numpy as np
import pytest
import torch
from students import lively_student

from fedserdiff.config import ExperimentConfig, make_config
from fedserdiff.diffusion.objective import (
    coarse_distance,
    dice_bce,
    feature_distance,
    replay_distance,
    segmentation_terms,
)
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.diffusion.schedule import alpha_bars


def smoke(**changes: object) -> ExperimentConfig:
    return make_config("smoke", precision="fp32", **changes)


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


@pytest.mark.parametrize("dims", [2, 3])
def test_distillation_of_a_student_by_itself_is_zero_and_by_another_is_not(dims: int) -> None:
    config = smoke(spatial_dims=dims)
    student = lively_student(config)
    grid = config.grid[:dims]
    rng = torch.Generator().manual_seed(0)
    image, maps = torch.randn(2, 4, *grid, generator=rng), torch.rand(2, 3, *grid, generator=rng) * 2 - 1
    context = student.context(image, torch.rand(2, 3, *grid, generator=rng))
    same, other = copy.deepcopy(student), new_student(config.replace(seed=9))

    def replay(teacher: Student) -> float:
        return float(replay_distance(student, teacher, maps, context, 1.0, torch.Generator().manual_seed(3)))

    assert replay(same) == 0.0
    assert float(coarse_distance(student, same, image, 1.0)[0]) == 0.0
    assert replay(other) > 0.01
    assert float(coarse_distance(student, other, image, 1.0)[0]) > 0.01


def test_gradients_reach_the_student_and_never_the_teacher() -> None:
    config = smoke()
    student, teacher = lively_student(config), lively_student(config.replace(seed=5))
    rng = torch.Generator().manual_seed(0)
    image, maps = torch.randn(2, 4, 16, 24, generator=rng), torch.rand(2, 3, 16, 24, generator=rng)
    loss = replay_distance(student, teacher, maps, student.null_context(2), 1.0, rng)
    (loss + coarse_distance(student, teacher, image, 1.0)[0]).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    reached = {n.split(".")[0] for n, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"coarse", "refiner"}


def test_dice_bce_equals_plain_numpy() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((2, 3, 4, 5))
    y = (rng.random((2, 3, 4, 5)) < 0.4).astype(float)
    y[:, 2] = 0  # a region that no sample shows
    axes = (0, 2, 3)
    dice = 1 - ((2 * (p * y).sum(axes) + 1) / (p.sum(axes) + y.sum(axes) + 1)).mean()
    q = np.clip(p, 1e-4, 1 - 1e-4)
    bce = -(y * np.log(q) + (1 - y) * np.log(1 - q)).mean()
    ours = dice_bce(torch.tensor(p, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    assert float(ours) == pytest.approx(dice + bce, rel=1e-4)


def test_segmentation_terms_follow_their_definition() -> None:
    """The three terms, recomputed from the student's own outputs under the same noise."""
    config = smoke()
    student = lively_student(config)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(4, 4, 16, 24, generator=rng)
    truth = (torch.rand(4, 3, 16, 24, generator=rng) < 0.3).float()
    seen: dict[str, torch.Tensor] = {}

    def spy(module: object, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["input"], seen["estimate"] = args[0], torch.tanh(output)

    student.refiner.register_forward_hook(spy)
    terms = segmentation_terms(student, image, truth, None, False, torch.Generator().manual_seed(7))
    p = torch.sigmoid(student.coarse_logits(image))
    assert torch.allclose(terms.coarse, dice_bce(p, truth))
    drawn = torch.Generator().manual_seed(7)  # the same draws, in the order of the definition
    t = torch.randint(0, 1000, (4,), generator=drawn)
    noise = torch.randn(truth.shape, generator=drawn)
    alpha = alpha_bars()[t].reshape(-1, 1, 1, 1)
    assert torch.allclose(seen["input"][:, :3], alpha.sqrt() * (truth - p) + (1 - alpha).sqrt() * noise, atol=1e-5)
    assert torch.allclose(terms.refined, dice_bce((p + seen["estimate"]).clamp(0, 1), truth))
    assert float(terms.error_map) == pytest.approx(float(((seen["estimate"] - (truth - p)) ** 2).mean()), rel=1e-5)
    assert float(terms.total) == pytest.approx(float(terms.coarse + terms.refined + terms.error_map), rel=1e-6)


def test_the_error_map_term_does_not_train_the_coarse_network() -> None:
    config = smoke()
    student = lively_student(config)
    image = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    terms = segmentation_terms(student, image, torch.zeros(2, 3, 16, 24), None, True, torch.Generator())
    (terms.error_map + terms.refined).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or not p.grad.any() for p in student.coarse.parameters())
    assert any(p.grad is not None and p.grad.any() for p in student.refiner.parameters())
