"""Training on patches: their content, the share with tumour, and every method on them."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from students import lively_student

import sites.training_set
from fedserdiff import wire
from fedserdiff.augmentation.chance import reach
from fedserdiff.data.preprocess import CaseArrays, Geometry
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.privacy_audit.audit import _check
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.methods import METHODS, get_method
from fedserdiff.settings.augmentation import Augmentation
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.augmenter import Augmenter
from sites.hospital import Hospital
from sites.sampling import Sampling
from sites.training import Order, consolidate, make_objective, run_round
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
PATCHES = {2: (8, 12), 3: (8, 12, 8)}


def smoke(dims: int, method: str = "fine-tune", **changes: Any) -> Settings:
    own = {"data.spatial_dims": dims, "training.patch": PATCHES[dims], "network.precision": "fp32"}
    return make_settings("smoke", own | changes, method=method)


def items_of(hospital: Hospital, config: Settings) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Image and masks of every item of a hospital, whole, in a training set's order."""
    found = []
    for cached in hospital.training:
        image, mask = cached.prepared.image.astype(np.float32), cached.prepared.mask.astype(np.float32)
        if config.data.spatial_dims == 3:
            found.append((image, mask))
        else:
            found.extend((image[..., z], mask[..., z]) for z in range(image.shape[3]) if image[..., z].any())
    return found


def corner_of(index: int, items: int, config: Settings) -> tuple[int, tuple[int, ...]]:
    places = [n - p + 1 for n, p in zip(config.data.grid, config.training.patch, strict=False)]
    return index % items, tuple(int(n) for n in np.unravel_index(index // items, places))


@pytest.mark.parametrize("kept", [False, True], ids=["read", "on the device"])
@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_patch_is_a_part_of_its_item(
    hospital: Hospital, dims: int, margin: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its margin, too, which is 0 beyond the grid."""
    if kept:
        monkeypatch.setattr(sites.training_set, "_KEEPING", {"cpu"})
        monkeypatch.setattr(sites.training_set, "room_on", lambda device: 2**40)
    config = smoke(dims)
    training_set, items = TrainingSet(hospital.training, config, CPU), items_of(hospital, config)
    index = training_set.draw(12, torch.Generator().manual_seed(0))
    batch = training_set.batch(index, margin=[margin] * dims)
    flipped = training_set.batch(index, mirrored=True, margin=[margin] * dims)
    starts = set()
    for place, one in enumerate(index.tolist()):
        item, corner = corner_of(one, len(items), config)
        starts.add(corner)
        part = (slice(None), *(slice(at, at + n + 2 * margin) for at, n in zip(corner, PATCHES[dims], strict=True)))
        for found, turned, whole in zip(
            (batch.image, batch.truth), (flipped.image, flipped.truth), items[item], strict=True
        ):
            around = np.pad(whole, [(0, 0), *[(margin, margin)] * dims])
            np.testing.assert_array_equal(found[place].numpy(), around[part])
            np.testing.assert_array_equal(turned[place].numpy(), around[part][:, ::-1])
    assert len(starts) > 8


def arrays(grid: tuple[int, int, int], inner: tuple[int, int, int], tumour: tuple[int, int, int]) -> CaseArrays:
    """A case whose brain is a box in the middle of its grid, with one voxel of tumour."""
    x, y, z = before = tuple((n - i) // 2 for n, i in zip(grid, inner, strict=True))
    image, mask = np.zeros((4, *grid), np.float16), np.zeros((3, *grid), np.uint8)
    image[:, x : x + inner[0], y : y + inner[1], z : z + inner[2]] = 1
    mask[(1, *tumour)] = 1
    return CaseArrays(image, mask, mask, Geometry(inner, (1.0, 1.0, 1.0), (0, 0, 0), inner, inner, before), "")  # type: ignore[arg-type]


def drawn(hospital: Hospital, case: CaseArrays, config: Settings, batches: int) -> tuple[list[tuple[int, ...]], Batch]:
    """Return the corners of the patches of many drawn batches of one volume, and the patches."""
    training_set = TrainingSet([replace(hospital.training[0], prepared=case)], config, CPU)
    draws = torch.Generator().manual_seed(0)
    index = torch.cat([training_set.draw(config.training.batch_size, draws) for _ in range(batches)])
    return [corner_of(one, 1, config)[1] for one in index.tolist()], training_set.batch(index)


@pytest.mark.parametrize(("size", "share"), [(1, 0.3), (4, 0.25), (3, 0.5), (2, 0.0)])
def test_a_share_of_patches_shows_tumour_and_the_others_do_as_often_as_chance_has_it(
    hospital: Hospital, size: int, share: float
) -> None:
    case = arrays((16, 24, 16), (16, 24, 16), (3, 9, 14))
    config = smoke(3, **{"training.batch_size": size, "training.tumour_share": share})
    _, batch = drawn(hospital, case, config, 1200 // size)
    shows = batch.truth.flatten(1).any(1).reshape(-1, size)
    # by chance: of 9 × 13 × 9 corners those from which 8 × 12 × 8 voxels hold the one at (3, 9, 14)
    by_chance = 4 / 9 * 10 / 13 * 2 / 9
    assert float(shows.float().mean()) == pytest.approx(share + (1 - share) * by_chance, abs=0.05)
    assert bool(shows[:, : int(share * size)].all()), "those that are drawn to show it come first"


@pytest.mark.parametrize(
    ("tumour", "corner"), [((8, 12, 8), (4, 6, 4)), ((0, 23, 9), (0, 12, 5)), ((15, 5, 3), (8, 0, 0))]
)
def test_a_patch_is_centred_on_tumour_as_far_as_the_grid_allows(
    hospital: Hospital, tumour: tuple[int, int, int], corner: tuple[int, ...]
) -> None:
    config = smoke(3, **{"training.batch_size": 2})
    corners, _ = drawn(hospital, arrays((16, 24, 16), (16, 24, 16), tumour), config, 3)
    assert corners[::2] == [corner] * 3  # the first of each batch of two


def test_other_patches_lie_anywhere_in_the_box_of_the_brain_or_hold_it(hospital: Hospital) -> None:
    """Along x it is wider than a patch, from 2 to 13; along y as wide; along z narrower, from 5 to 10."""
    config = smoke(3, **{"training.tumour_share": 0.0})
    corners, _ = drawn(hospital, arrays((16, 24, 16), (12, 12, 6), (8, 12, 8)), config, 100)
    assert set(corners) == {(x, 6, z) for x in range(2, 7) for z in range(3, 6)}


@pytest.mark.parametrize("dims", [2, 3])
def test_an_epoch_takes_a_patch_of_every_item_and_draws_places_anew(hospital: Hospital, dims: int) -> None:
    length = {"training.steps_per_stage": 0, "training.epochs_per_stage": 2, "training.rounds": 1}
    config = smoke(dims, **length, **{"training.batch_size": 4})
    training_set, whole = TrainingSet(hospital.training, config, CPU), items_of(hospital, config)
    items, tumour = len(whole), torch.tensor([bool(truth.any()) for _, truth in whole])
    sampling = Sampling(training_set, config, "any")
    steps = sampling.steps // 2
    passes = [[sampling.items(step, torch.Generator()) for step in range(n * steps, (n + 1) * steps)] for n in (0, 1)]
    for batches in passes:
        assert sorted((torch.cat(batches) % items).tolist()) == list(range(items))
        for index in batches:
            shows = training_set.batch(index).truth.flatten(1).any(1)
            wanted = min(len(index) // 2, int(tumour[index % items].sum()))
            assert bool(shows[:wanted].all())
    assert torch.cat(passes[0]).sort().values.tolist() != torch.cat(passes[1]).sort().values.tolist()


def test_a_share_other_than_a_half_balances_whole_items_too(hospital: Hospital) -> None:
    config = smoke(2, **{"training.patch": (), "training.tumour_share": 0.75, "training.batch_size": 8})
    training_set = TrainingSet(hospital.training, config, CPU)
    truths = training_set.batch(torch.arange(len(training_set))).truth.flatten(1).any(1)
    index = training_set.draw(8, torch.Generator().manual_seed(0))
    assert bool(truths[index[:6]].all())
    items, showing = len(truths), int(truths.sum())
    added = training_set.items_an_epoch(balanced=True) - items
    assert (showing + added) / (items + added) == pytest.approx(0.75, abs=1 / items)


def test_what_moves_into_a_patch_is_what_lies_beside_it(hospital: Hospital) -> None:
    """Rotated and scaled patches of images that say where each voxel is: no edge is seen, every place is right."""
    grid = (40, 44, 4)
    case = arrays(grid, grid, (20, 22, 2))
    case.image[:] = 1 + np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij")).astype(np.float16)[[0, 1, 2, 0]]
    intensity = dict.fromkeys(
        ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"), 0.0
    )
    own = {"strength": "on", "rotation": 1.0, "scaling": 1.0, "rotation_degrees": 45.0, **intensity}
    config = smoke(2, **{f"augmentation.{name}": value for name, value in own.items()})
    training_set = TrainingSet([replace(hospital.training[0], prepared=case)], config, CPU)
    augmented = Augmenter(config, CPU, "any")
    index = training_set.placed(torch.full((6,), 2), 6, torch.Generator().manual_seed(0))  # slice 2, about its tumour
    batch = augmented(training_set.batch(index, margin=augmented.margin))
    assert batch.image.shape == (6, 4, 8, 12)
    assert batch.movement is not None
    (x, y) = corner_of(int(index[0]), 4, config)[1]
    p, q = np.meshgrid(np.arange(8) - 3.5, np.arange(12) - 5.5, indexing="ij")
    for image, matrix in zip(batch.image.numpy(), batch.movement.matrix.numpy(), strict=True):
        np.testing.assert_allclose(image[0], 1 + x + 3.5 + matrix[0, 0] * p + matrix[0, 1] * q, atol=1e-3)
        np.testing.assert_allclose(image[1], 1 + y + 5.5 + matrix[1, 0] * p + matrix[1, 1] * q, atol=1e-3)
    whole = Augmenter(config.replace({"training.patch": ()}), CPU, "any")
    assert whole.margin == (0, 0), "nothing lies beside a whole slice"


@pytest.mark.parametrize(
    ("changes", "voxels"),
    [
        ({"rotation": 1.0, "rotation_degrees": 45.0}, 2),  # 4 √2 of 4
        ({"scaling": 1.0, "scaling_range": (0.5, 2.0)}, 4),
        ({"elastic": 1.0, "elastic_mm": 6.0}, 3),
        ({}, 0),
    ],
)
def test_the_margin_is_what_the_settings_may_move_into_a_patch(changes: dict[str, Any], voxels: int) -> None:
    still = {"rotation": 0.0, "scaling": 0.0, "elastic": 0.0}
    assert reach((8, 8), Augmentation(**still | changes), 2.0) == (voxels, voxels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.arrival == "in-turn"])
def test_every_method_trains_on_patches_and_hands_over_patches(
    hospitals: list[Hospital], method: str, dims: int
) -> None:
    config = smoke(dims, method, **{"training.rounds": 1, "training.steps_per_stage": 2})
    config = config.replace(sites=tuple(one.site for one in hospitals))
    by_site = {one.site: one for one in hospitals}
    parts = get_method(method).parts
    student = new_student(config)
    run_round(student, Order(1, 1, teachers=(None,) * len(parts)), hospitals[0], by_site.__getitem__, config)
    memory = consolidate(student, 1, hospitals[0], config, [part.hands_over for part in parts])
    weights = wire.weights_to_record(student)
    for part in parts:
        if part.hands_over and part.hands_over != wire.FISHER:
            for name, rule in wire.rules_of(part, config, weights).items():
                assert tuple(memory[part.hands_over][name].shape[1:]) == tuple(rule.shape)
    for sampled, name in ((wire.ERROR_MAPS, "maps"), (wire.SYNTHETIC_IMAGES, "images")):
        if sampled in memory:
            assert tuple(memory[sampled][name].shape[2:]) == PATCHES[dims]
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    students = []
    for _ in range(2):
        students.append(copy.deepcopy(student))
        order = Order(2, 1, teachers=(teacher,) * len(parts), memory=memory)
        done = run_round(students[-1], order, hospitals[1], by_site.__getitem__, config)
        assert all(np.isfinite(value) for value in done.losses.values())
    before, *after = (torch.cat([w.flatten() for w in one.parameters()]) for one in (student, *students))
    assert torch.equal(*after), "the same seed trains the same student"
    assert not torch.equal(before, after[0])


def test_ser_diff_replays_patches_with_their_maps_and_gives_batches_no_old_map(hospitals: list[Hospital]) -> None:
    config = smoke(2, "ser-diff")
    teacher = lively_student(config)
    bank = {wire.ERROR_MAPS: {"maps": torch.randint(-15, 16, (4, 3, *PATCHES[2]), dtype=torch.int8)}}
    objective = make_objective(config, [teacher], bank)
    training_set = TrainingSet(hospitals[1].training, config, CPU)
    objective.begin(training_set, "site-2", 2, 1)
    batch = training_set.batch(training_set.draw(4, torch.Generator().manual_seed(0)))
    lesson = objective.lessons(batch, torch.Generator())["segmentation"]
    assert lesson.old_map is None
    assert lesson.replay is not None
    assert lesson.replay.image.shape == (1, 4, *PATCHES[2])
    assert lesson.replay.maps.shape == (1, 3, *PATCHES[2])
    assert lesson.replay.bank is not None
    assert lesson.replay.bank.shape == (1, 3, *PATCHES[2])


def test_the_memory_of_a_step_is_that_of_its_patches() -> None:
    use_cpus(1)
    sites = tuple(Site(f"site-{n}", "brats2021", "") for n in (1, 2))
    grids = (
        {"data.grid": (16, 16, 16), "training.patch": ()},
        {"data.grid": (48, 48, 48), "training.patch": (16, 16, 16)},
    )
    whole, patches = (step_memory(smoke(3, "ser-diff", **grid).replace(sites=sites)) for grid in grids)
    assert patches == pytest.approx(whole, rel=0.05)  # 27 times as much otherwise


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training.patch": (8,)}, r"training\.patch: \(8,\) has 1 axes, and data\.spatial_dims = 2 needs 2"),
        ({"training.patch": (8, 8, 8)}, r"training\.patch: \(8, 8, 8\) has 3 axes, and data\.spatial_dims = 2 needs 2"),
        ({"training.patch": (8, 28)}, r"training\.patch: \(8, 28\) does not fit into data\.grid, \(16, 24, 16\)"),
        ({"training.patch": (8, 10)}, r"training\.patch: \(8, 10\) is not a multiple of 4, .*network\.coarse_channels"),
        ({"training.patch": (8, 0)}, r"training\.patch: contains 0"),
        ({"training.tumour_share": 1.0}, r"training\.tumour_share: 1\.0 is not"),
        ({"scoring.overlap": 1.0}, r"scoring\.overlap: 1\.0 is not"),
    ],
)
def test_patches_that_cannot_be_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_settings("smoke", changes)


def test_a_run_on_patches_is_not_audited_as_if_nothing_leaked() -> None:
    with pytest.raises(ConfigError, match=r"run: was trained on patches \(training\.patch\)"):
        _check(Path("run"), smoke(2))


def test_of_patches_alone_the_size_has_to_be_a_multiple() -> None:
    config = make_settings("smoke", {"training.patch": (8, 12), "data.grid": (17, 25, 16)})
    assert config.sample_shape == (8, 12)
    with pytest.raises(ConfigError, match=r"data\.grid: \(17, 25, 16\) is not a multiple of 4"):
        config.replace({"training.patch": ()})
