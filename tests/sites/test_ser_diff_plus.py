import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from losses import terms_of
from students import lively_student

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.objective import coarse_terms
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.settings.sources import make_settings
from sites.adapters import load_adapter, save_adapter
from sites.hospital import Hospital
from sites.inversion import invert_contrast
from sites.objectives.fine_tune import FineTuneObjective
from sites.objectives.ser_diff_plus import SerDiffPlusObjective
from sites.training import Order, run_round
from sites.training_set import Batch, TrainingSet

CPU = torch.device("cpu")
CONFIG = make_settings("smoke", {"network.precision": "fp32"}, method="ser-diff-plus")


def lively_adapter(seed: int = 0) -> SiteAdapter:
    adapter = SiteAdapter(4)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=noise))
    return adapter


def frozen(student: Student) -> Student:
    return copy.deepcopy(student).eval().requires_grad_(False)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_new_adapter_changes_nothing(dims: int) -> None:
    image = torch.randn(2, 4, *(8,) * dims)
    assert torch.equal(SiteAdapter(4)(image), image)


def test_an_adapter_sees_one_voxel_at_a_time_and_nothing_outside_the_brain() -> None:
    adapter, rng = lively_adapter(), torch.Generator().manual_seed(0)
    image = torch.randn(1, 4, 6, 6, generator=rng)
    image[..., 0] = 0
    translated = adapter(image)
    shuffled = torch.randperm(36, generator=rng)
    of_shuffled = adapter(image.flatten(2)[..., shuffled].reshape(image.shape))
    assert torch.allclose(of_shuffled.flatten(2), translated.flatten(2)[..., shuffled], atol=1e-6)
    assert not translated[..., 0].any()
    assert (translated - image)[..., 1:].abs().min() > 0


class _Inverted(TrainingSet):
    """The same hospital on a scanner whose first two contrasts are inverted."""

    def batch(self, index: torch.Tensor) -> Batch:
        batch = super().batch(index)
        return replace(batch, image=batch.image * torch.tensor([-1.0, -1, 1, 1]).reshape(-1, 1, 1))


def test_inversion_finds_the_contrast_that_the_teacher_knows(hospital: Hospital) -> None:
    """A teacher is right on its own scanner; on another one its loss comes back to that, and signs are found."""
    config = CONFIG.replace(
        {
            "training.steps_per_stage": 200,
            "training.rounds": 1,
            "training.learning_rate": 4e-3,
            "method.inversion_steps": 20,
        }
    )
    teacher = new_student(config)
    run_round(teacher, Order(1, 1), hospital, lambda site: hospital, config)
    teacher = frozen(teacher)

    def loss(images: TrainingSet, adapter: SiteAdapter | None) -> float:
        batch = images.batch(torch.arange(len(images)))
        seen = batch.image if adapter is None else adapter(batch.image)
        return float(dice_bce_with_logits(teacher.coarse_logits(seen), batch.truth))

    own, other = (kind(hospital.training, config, CPU) for kind in (TrainingSet, _Inverted))
    adapter = invert_contrast(teacher, other, config, torch.Generator().manual_seed(0))
    assert adapter.signs.tolist() == [-1, -1, 1, 1]
    assert loss(other, None) > 1.2 * loss(own, None)
    assert loss(other, adapter) < 1.05 * loss(own, None)


def test_the_first_hospital_has_no_adapter_and_learns_as_by_fine_tuning(hospital: Hospital) -> None:
    students = []
    for config in (CONFIG, CONFIG.replace(method="fine-tune")):
        student = new_student(config)
        assert run_round(student, Order(1, 1), hospital, lambda site: hospital, config).adapter is None
        students.append(student.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_the_first_hospital_needs_no_adapter_when_it_trains_again(hospital: Hospital) -> None:
    config = CONFIG.replace(sites=(hospital.site, replace(hospital.site, name="site-2")))
    for site, has_adapter in ((hospital.site, False), (config.sites[1], True)):
        student, order = lively_student(config), Order(2, 1, teachers=(frozen(lively_student(config)),))
        at_site = replace(hospital, site=site)
        done = run_round(student, order, at_site, lambda other: hospital, config)
        assert (done.adapter is not None) == has_adapter


def test_with_nothing_distilled_and_no_inversion_it_is_fine_tuning(hospital: Hospital) -> None:
    config = CONFIG.replace({"method.lambda_kd": 0, "method.inversion_steps": 0})
    teacher, student = frozen(lively_student(config)), lively_student(config.replace(seed=3))
    training_set = TrainingSet(hospital.training, config, CPU)
    batch = training_set.batch(torch.arange(4))
    objectives = SerDiffPlusObjective(config, teacher), FineTuneObjective(config)
    for objective in objectives:
        objective.begin(training_set, "site-2", 2, 1)
    plus, plain = (terms_of(objective, student, batch) for objective in objectives)
    assert {n: float(v) for n, v in plus.items()} == {n: float(v) for n, v in plain.items()}


def test_the_student_is_held_to_the_teacher_on_translated_scans(hospital: Hospital) -> None:
    """A student that is its teacher is at distance 0 of it there, and another is not; half of the batch counts."""
    config = CONFIG
    teacher = frozen(lively_student(config))
    training_set = TrainingSet(hospital.training, config, CPU)
    batch = training_set.batch(torch.arange(4))
    objective = SerDiffPlusObjective(config, teacher, adapter=lively_adapter())
    objective.begin(training_set, "site-2", 2, 1)
    (lesson,) = objective.lessons(batch, torch.Generator()).values()
    _, seen = coarse_terms(teacher, lesson)
    assert torch.equal(seen.image, lively_adapter()(batch.image))
    same, other = (
        float(terms_of(objective, student, batch)["distillation"])
        for student in (copy.deepcopy(teacher), lively_student(config.replace(seed=3)))
    )
    p = teacher.segment(lively_adapter()(batch.image[:2])).double()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()  # what a cross-entropy is at its least
    assert same == pytest.approx(0.3 * float(entropy), rel=1e-3)
    assert other > 1.5 * same


def test_the_adapter_learns_with_the_student_and_a_round_asked_for_again_repeats(
    hospital: Hospital, tmp_path: Path
) -> None:
    teacher = frozen(lively_student(CONFIG))

    def second_round() -> tuple[dict[str, torch.Tensor], SiteAdapter]:
        student = lively_student(CONFIG)
        order = Order(2, 2, teachers=(teacher,), adapter=load_adapter(tmp_path, CONFIG, "site-2", (2, 2)))
        adapter = run_round(student, order, hospital, lambda site: hospital, CONFIG).adapter
        assert adapter is not None
        save_adapter(tmp_path, CONFIG, "site-2", adapter, (2, 2))
        return student.state_dict(), adapter

    first = run_round(
        lively_student(CONFIG), Order(2, 1, teachers=(teacher,)), hospital, lambda s: hospital, CONFIG
    ).adapter
    assert first is not None
    save_adapter(tmp_path, CONFIG, "site-2", first, (2, 1))
    (student, adapter), (again, adapter_again) = second_round(), second_round()
    assert all(torch.equal(student[name], again[name]) for name in student)
    learnt = {name: value.clone() for name, value in adapter.state_dict().items()}
    assert all(torch.equal(learnt[name], value) for name, value in adapter_again.state_dict().items())
    assert any(not torch.equal(learnt[name], value) for name, value in first.state_dict().items())


def test_a_hospital_takes_its_newest_adapter_from_before_a_round(tmp_path: Path) -> None:
    kept = {when: lively_adapter(seed) for seed, when in enumerate([(2, 1), (2, 2), (10, 1)])}
    for when, adapter in kept.items():
        save_adapter(tmp_path, CONFIG, "site-2", adapter, when)

    def taken(stage: int, server_round: int) -> torch.Tensor | None:
        adapter = load_adapter(tmp_path, CONFIG, "site-2", before=(stage, server_round))
        return None if adapter is None else adapter.residual[0].weight

    assert taken(2, 1) is None
    for before, when in (((2, 2), (2, 1)), ((3, 0), (2, 2)), ((10, 1), (2, 2)), ((11, 0), (10, 1))):
        assert torch.equal(taken(*before), kept[when].residual[0].weight)  # type: ignore[arg-type]  # None fails, too


def test_a_volume_is_segmented_through_the_adapter(hospital: Hospital) -> None:
    """As if the scan had come translated."""
    student, adapter = lively_student(CONFIG), lively_adapter()
    image = hospital.test[0].prepared.image
    with torch.no_grad():
        translated = adapter(torch.from_numpy(image.astype("float32")).permute(3, 0, 1, 2)).permute(1, 2, 3, 0).numpy()
    through = predict_volume(student, image, 2, torch.Generator().manual_seed(0), adapter)
    plain = predict_volume(student, translated, 2, torch.Generator().manual_seed(0))
    assert torch.allclose(through.coarse, plain.coarse, atol=1e-5)
    assert torch.allclose(through.refined, plain.refined, atol=1e-4)
    assert not torch.allclose(
        through.coarse, predict_volume(student, image, 2, torch.Generator().manual_seed(0)).coarse, atol=1e-2
    )
