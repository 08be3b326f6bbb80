from typing import Any

import pytest
import torch
from losses import terms_of
from students import lively_student

from fedserdiff.diffusion.lesson import Lesson
from fedserdiff.diffusion.objective import segmentation_loss
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import SYNTHETIC_IMAGES
from sites.hospital import Hospital
from sites.objectives.fine_tune import FineTuneObjective
from sites.objectives.image_replay import ImageReplayObjective
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
Images = dict[str, torch.Tensor]


def smoke(dims: int = 2, **changes: Any) -> Settings:
    return make_settings("smoke", {"data.spatial_dims": dims, **changes}, method="image-replay")


def shared(hospital: Hospital, config: Settings, site: str = "site-1") -> Images:
    training_set = TrainingSet(hospital.training, config, CPU)
    memory = ImageReplayObjective(config).consolidate(lively_student(config), training_set, site, 1)
    assert set(memory) == {SYNTHETIC_IMAGES}
    return dict(memory[SYNTHETIC_IMAGES])


def kept(config: Settings) -> Images:
    """Seven samples of the bank, as they travel."""
    draws, grid = torch.Generator().manual_seed(4), config.data.grid[: config.data.spatial_dims]
    masks = torch.rand(7, 3, *grid, generator=draws) < 0.2
    return {"images": torch.randn(7, 4, *grid, generator=draws).half(), "masks": masks.to(torch.uint8)}


def terms(config: Settings, hospital: Hospital, memory: Images | None) -> dict[str, float]:
    objective = ImageReplayObjective(config, None, {} if memory is None else {SYNTHETIC_IMAGES: memory})
    training_set = TrainingSet(hospital.training, config, CPU)
    objective.begin(training_set, "site-2", 2, 1)
    batch = training_set.batch(torch.tensor([0, 1]))
    found = terms_of(objective, lively_student(config), batch)
    return {name: float(value.detach()) for name, value in found.items()}


def plain(config: Settings, hospital: Hospital) -> dict[str, float]:
    batch: Batch = TrainingSet(hospital.training, config, CPU).batch(torch.tensor([0, 1]))
    objective = FineTuneObjective(config)
    found = terms_of(objective, lively_student(config), batch)
    return {name: float(value.detach()) for name, value in found.items()}


@pytest.mark.parametrize("dims", [2, 3])
def test_what_leaves_is_half_precision_images_with_masks_inside_their_brain(hospital: Hospital, dims: int) -> None:
    # two chunks
    config = smoke(
        dims,
        **{
            "training.steps_per_stage": 25,
            "training.learning_rate": 5e-3,
            "replay.shared_maps": 5,
            "training.batch_size": 2,
        },
    )
    found = shared(hospital, config)
    images, masks = found["images"], found["masks"]
    assert set(found) == {"images", "masks"}
    assert (images.dtype, masks.dtype) == (torch.float16, torch.uint8)
    assert images.shape == (5, 4, *config.data.grid[:dims])
    assert masks.shape == (5, 3, *config.data.grid[:dims])
    assert set(masks.unique().tolist()) <= {0, 1}
    inside = (images != 0).any(1, keepdim=True)
    assert 0 < float(inside.float().mean()) < 1, "there is brain, and not everywhere"
    assert not masks[~inside.expand_as(masks)].any()
    assert bool(torch.isfinite(images).all())


def test_images_repeat_with_seed_hospital_and_stage_and_leave_torchs_own_draws_alone(
    hospitals: list[Hospital],
) -> None:
    config = smoke(**{"training.steps_per_stage": 12, "training.learning_rate": 5e-3})
    torch.manual_seed(1)
    one = shared(hospitals[0], config)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = shared(hospitals[0], config)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["images"].any()
    others = [shared(hospitals[1], config), shared(hospitals[0], config.replace(seed=1))]
    others.append(shared(hospitals[0], config, site="site-9"))
    assert not any(torch.equal(one["images"], other["images"]) for other in others)


@pytest.mark.parametrize("dims", [2, 3])
def test_replay_is_the_segmentation_loss_of_a_draw_from_the_bank(hospital: Hospital, dims: int) -> None:
    config = smoke(dims, **{"network.precision": "fp32", "method.lambda_kd": 0.4, "replay.batch_size": 3})
    bank = kept(config)
    found = terms(config, hospital, bank)
    draws = generator(config.seed, "replay", "site-2", 2, 1)
    drawn = torch.randint(0, 7, (3,), generator=draws)
    image, truth = bank["images"].float()[drawn], bank["masks"].float()[drawn]
    noise = generator(config.seed, "replay-noise", "site-2", 2, 1)
    expected = segmentation_loss(lively_student(config), Lesson(image, truth, noise), True)
    assert list(found) == ["segmentation", "replay"]
    assert found["replay"] == pytest.approx(0.4 * float(expected.detach()), rel=1e-5)
    assert found["segmentation"] == plain(config, hospital)["segmentation"]


@pytest.mark.parametrize(
    ("changes", "with_bank"),
    [({}, False), ({"method.lambda_kd": 0.0}, True), ({"replay.batch_size": 0}, True)],
    ids=["no bank", "lambda 0", "nothing replayed"],
)
def test_without_replay_the_loss_is_that_of_fine_tuning(
    hospital: Hospital, changes: dict[str, Any], with_bank: bool
) -> None:
    config = smoke(**changes)
    assert terms(config, hospital, kept(config) if with_bank else None) == plain(config, hospital)
