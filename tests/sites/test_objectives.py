import pytest
import torch
from losses import terms_of
from students import lively_student

from fedserdiff.diffusion.objective import coarse_terms
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.diffusion.schedule import alpha_bar
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import ERROR_MAPS
from sites.hospital import Hospital
from sites.objectives.pooled import PooledObjective
from sites.objectives.ser_diff import SerDiffObjective
from sites.training_set import TrainingSet

CPU = torch.device("cpu")


def shared(config: Settings, hospital: Hospital) -> torch.Tensor:
    training_set = TrainingSet(hospital.training, config, CPU)
    memory = SerDiffObjective(config).consolidate(lively_student(config), training_set, "any", 1)
    assert set(memory) == {ERROR_MAPS}
    assert set(memory[ERROR_MAPS]) == {"maps"}
    return memory[ERROR_MAPS]["maps"]


def test_null_maps_are_the_same_whatever_scans_the_hospital_holds(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", method="ser-diff")
    maps = [shared(config, hospital) for hospital in hospitals]
    assert maps[0].shape == (config.replay.shared_maps, 3, 16, 24)
    assert maps[0].dtype == torch.int8
    assert torch.equal(maps[0], maps[1])
    assert float(maps[0].float().std()) > 0


def test_mri_maps_show_the_hospitals_scans_and_none_are_none(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", {"method.shared_error_maps": "mri"}, method="ser-diff")
    maps = [shared(config, hospital) for hospital in hospitals]
    assert maps[0].shape == (config.replay.shared_maps, 3, 16, 24)
    assert not torch.equal(maps[0], maps[1])
    none = make_settings("smoke", {"method.shared_error_maps": "none"}, method="ser-diff")
    training_set = TrainingSet(hospitals[0].training, none, CPU)
    assert not SerDiffObjective(none).consolidate(lively_student(none), training_set, "any", 1)


def test_an_old_map_follows_its_slice_and_is_empty_outside_the_pool(hospitals: list[Hospital]) -> None:
    config = make_settings(
        "smoke", {"replay.conditional_maps": 3, "replay.map_steps": 1, "network.precision": "fp32"}, method="ser-diff"
    )
    teacher = lively_student(config)
    training_set = TrainingSet(hospitals[0].training, config, CPU)
    objective = SerDiffObjective(config, teacher)
    objective.begin(training_set, "site-1", stage=2, server_round=1)
    batch = training_set.batch(torch.arange(len(training_set)))
    maps = objective._old_maps(batch)
    filled = maps.flatten(1).any(1)
    assert int(filled.sum()) == 3
    assert torch.equal(objective._old_maps(batch.mirror()), maps.flip(2))
    # One sampling step from noise: t = T − 1 hides the noise but for a hair, so the map is the teacher's answer.
    index = int(torch.nonzero(filled)[0])
    noise = teacher.noise(1, torch.Generator().manual_seed(0))
    again = teacher.predict(batch.image[index : index + 1], 1, noise).error_map
    assert float((again[0] - maps[index]).abs().mean()) < float((again[0] - maps[index].flip(1)).abs().mean())


def test_with_a_teacher_the_loss_has_two_terms_and_lambda_scales_one(hospitals: list[Hospital]) -> None:
    terms = []
    for weight in (1.0, 0.25):
        config = make_settings("smoke", {"method.lambda_kd": weight, "network.precision": "fp32"}, method="ser-diff")
        bank = {ERROR_MAPS: {"maps": torch.zeros(4, 3, 16, 24, dtype=torch.int8)}}
        objective = SerDiffObjective(config, lively_student(config), bank)
        training_set = TrainingSet(hospitals[0].training, config, CPU)
        objective.begin(training_set, "site-1", stage=2, server_round=1)
        batch = training_set.batch(torch.arange(4))
        found = terms_of(objective, new_student(config), batch, perturb=False)
        terms.append({name: value.detach() for name, value in found.items()})
    full, quarter = terms
    assert sorted(full) == ["distillation", "segmentation"]
    assert float(full["segmentation"]) == float(quarter["segmentation"])
    assert float(quarter["distillation"]) == pytest.approx(0.25 * float(full["distillation"]), rel=1e-5)


def test_pooling_trains_on_every_sites_training_cases_and_on_no_test_case(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", method="ser-diff", sites=tuple(h.site for h in hospitals))
    by_site: dict[Site, Hospital] = {h.site: h for h in hospitals}
    cases = PooledObjective(config).training_cases(hospitals[0], 1, by_site.__getitem__)
    names = {c.case.name for c in cases}
    assert names == {c.case.name for h in hospitals for c in h.training}
    assert not names & {c.case.name for h in hospitals for c in h.test}


@pytest.mark.parametrize("dims", [2, 3])
def test_maps_of_the_bank_replay_with_the_empty_context_and_the_hospitals_own_with_theirs(
    hospitals: list[Hospital], dims: int
) -> None:
    config = make_settings(
        "smoke", {"data.spatial_dims": dims, "replay.batch_size": 2, "replay.conditional_maps": 2}, method="ser-diff"
    )
    bank = {ERROR_MAPS: {"maps": torch.full((4, 3, *config.data.grid[:dims]), 8, dtype=torch.int8)}}
    objective = SerDiffObjective(config, lively_student(config), bank)
    training_set = TrainingSet(hospitals[0].training, config, CPU)
    objective.begin(training_set, "site-1", stage=2, server_round=1)
    lesson = objective.lessons(training_set.batch(torch.arange(2)), torch.Generator())["segmentation"]
    replay = lesson.replay
    assert replay is not None
    assert len(replay.image) == 1, "the bank's map has none"
    replayed = coarse_terms(lively_student(config), lesson)[1].replayed
    assert replayed is not None
    alpha = alpha_bar(replay.t[1])
    noise = (replayed.noisy[1] - alpha.sqrt() * 8 / 15) / (1 - alpha).sqrt()
    assert abs(float(noise.mean())) < 0.1, "the second is the bank's"
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert (~replayed.context.flatten(1).any(1)).tolist() == [False, True]
    assert torch.equal(replayed.context[0, :4], replay.image[0])


def begun(config: Settings, hospital: Hospital, server_round: int = 1) -> SerDiffObjective:
    """SER-Diff's objective, a round begun, with a bank of maps at 8/15."""
    bank = {ERROR_MAPS: {"maps": torch.full((4, 3, 16, 24), 8, dtype=torch.int8)}}
    objective = SerDiffObjective(config, lively_student(config), bank)
    objective.begin(TrainingSet(hospital.training, config, CPU), "site-1", 2, server_round)
    return objective


def test_without_noise_maps_are_the_teachers_own_and_the_banks_as_they_came(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", {"network.precision": "fp32"}, method="ser-diff")
    objective = begun(config, hospitals[0])
    training_set = TrainingSet(hospitals[0].training, config, CPU)
    items = generator(config.seed, "conditional-maps", "site-1", 2)
    pool = torch.randperm(len(training_set), generator=items)[: config.replay.conditional_maps]
    draws = generator(config.seed, "conditional-maps-noise", "site-1", 2)
    image = training_set.batch(pool).image  # fewer than one chunk
    teacher = lively_student(config)
    maps = teacher.predict(image, config.replay.map_steps, teacher.noise(len(image), draws)).error_map
    torch.testing.assert_close(objective._maps, maps)  # which were made in passes of other samples
    assert objective._bank is not None
    assert bool((objective._bank == 8 / 15).all())


def test_noise_spoils_every_replayed_map_by_its_deviation_and_clips_it(hospitals: list[Hospital]) -> None:
    config = make_settings("smoke", {"network.precision": "fp32"}, method="ser-diff")
    clean = begun(config, hospitals[0])
    slightly, much = (begun(config.replace({"replay.map_noise": deviation}), hospitals[0]) for deviation in (0.01, 5.0))
    for spoilt, original in ((slightly._maps, clean._maps), (slightly._bank, clean._bank)):
        assert spoilt is not None
        assert original is not None
        difference = (spoilt - original)[original.abs() < 0.9]
        assert float(difference.std()) == pytest.approx(0.01, rel=0.1)
        assert float(difference.mean()) == pytest.approx(0, abs=1e-3)
    for maps in (much._maps, much._bank):
        assert maps is not None
        assert (float(maps.min()), float(maps.max())) == (-1, 1)
    assert torch.equal(begun(config.replace({"replay.map_noise": 5.0}), hospitals[0], server_round=2)._maps, much._maps)


def test_noise_changes_the_loss_and_without_it_nothing_does(hospitals: list[Hospital]) -> None:
    terms = []
    for noise in (0.0, 0.0, 0.5):
        config = make_settings("smoke", {"network.precision": "fp32", "replay.map_noise": noise}, method="ser-diff")
        objective = begun(config, hospitals[0])
        batch = TrainingSet(hospitals[0].training, config, CPU).batch(torch.arange(4))
        found = terms_of(objective, new_student(config), batch, perturb=False)
        terms.append({name: float(value.detach()) for name, value in found.items()})
    assert terms[0] == terms[1]
    assert terms[0]["distillation"] != terms[2]["distillation"]
