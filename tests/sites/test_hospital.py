import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.errors import BadCasesError, DataError
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, leave_out, open_hospital
from sites.training_set import TrainingSet

Volumes = dict[str, NDArray[Any]]
# holds the tiny volumes at their own size
CONFIG = make_settings("smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0})
CONFIG_3D = CONFIG.replace({"data.spatial_dims": 3})


def _training_set(hospital: Hospital, config: Settings = CONFIG) -> TrainingSet:
    return TrainingSet(hospital.training, config, torch.device("cpu"))


@pytest.fixture
def hospital(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> Hospital:
    """Five patients, one of them with three scans; the tiny brain spans 6 slices, its tumour 3 of them."""
    names = [f"BraTS-GLI-0000{n}-000" for n in range(5)] + ["BraTS-GLI-00001-001", "BraTS-GLI-00001-002"]
    for seed, name in enumerate(names):
        volumes = draw_volumes(seed=seed, enhancing=3)
        write_case(tmp_path / "scans", volumes, "brats2023-gli", name=name)
    return open_hospital(Site("north", "brats2023-gli", str(tmp_path / "scans")), CONFIG, tmp_path / "cache")


def test_no_patient_is_in_both_lists_and_no_case_in_neither(hospital: Hospital) -> None:
    training = {cached.case.patient for cached in hospital.training}
    test = {cached.case.patient for cached in hospital.test}
    assert not training & test
    assert len(training) == 4
    assert len(test) == 1
    assert len(hospital.training) + len(hospital.test) == 7


def test_follow_up_scans_stay_on_one_side_whatever_the_share(hospital: Hospital, tmp_path: Path) -> None:
    for share in (0.2, 0.4, 0.6, 0.8):
        opened = open_hospital(hospital.site, CONFIG.replace({"data.test_share": share}), tmp_path / "cache")
        test = [cached.case.name for cached in opened.test if cached.case.patient == "BraTS-GLI-00001"]
        assert len(test) in (0, 3)


def test_cases_of_the_site_restrict_what_is_opened(hospital: Hospital, tmp_path: Path) -> None:
    cases = ("BraTS-GLI-00000-000", "BraTS-GLI-00003-000")
    site = Site("north", "brats2023-gli", hospital.site.path, cases)
    opened = open_hospital(site, CONFIG, tmp_path / "cache")
    assert sorted(cached.case.name for cached in (*opened.training, *opened.test)) == list(cases)


def test_validation_patients_are_taken_from_those_who_train(hospital: Hospital, tmp_path: Path) -> None:
    opened = open_hospital(hospital.site, CONFIG.replace({"data.validation_share": 0.4}), tmp_path / "cache")
    sides = [{c.case.patient for c in cases} for cases in (opened.training, opened.validation, opened.test)]
    assert list(map(len, sides)) == [2, 2, 1]
    assert len(set.union(*sides)) == 5, "nobody is on two sides"
    assert opened.test == hospital.test
    assert {c.case.name for c in opened.cases} == {c.case.name for c in hospital.cases}
    assert opened.counts == {side: len(getattr(opened, side)) for side in ("training", "validation", "test")}
    assert opened.counted == "{training} training, {validation} validation and {test} test cases".format(
        **opened.counts
    )
    assert hospital.counted == "{training} training and {test} test cases".format(**hospital.counts)


def test_whose_test_or_validation_cases_are_all_an_earlier_sites_is_told(hospital: Hospital, tmp_path: Path) -> None:
    chosen = {
        "test_cases": ("BraTS-GLI-00003-000",),
        "validation_cases": ("BraTS-GLI-00002-000", "BraTS-GLI-00004-000"),
    }
    opened = open_hospital(replace(hospital.site, **chosen), CONFIG, tmp_path / "cache")
    left = leave_out(opened, {"BraTS-GLI-00002-000"}, CONFIG)
    assert left.site.validation_cases == ("BraTS-GLI-00004-000",)
    assert [c.case.name for c in left.validation] == ["BraTS-GLI-00004-000"]
    for field, names in chosen.items():
        with pytest.raises(DataError, match=f"site north: an earlier site brought every patient of its {field}$"):
            leave_out(opened, set(names), CONFIG)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_named_test_cases_are_held_out_whatever_the_share(hospital: Hospital, tmp_path: Path, share: float) -> None:
    held_out = ("BraTS-GLI-00003-000", "BraTS-GLI-00001-001", "BraTS-GLI-00001-000", "BraTS-GLI-00001-002")
    site = Site("north", "brats2023-gli", hospital.site.path, (), held_out)
    opened = open_hospital(site, CONFIG.replace({"data.test_share": share}), tmp_path / "cache")
    assert sorted(cached.case.name for cached in opened.test) == sorted(held_out)
    assert sorted(cached.case.name for cached in opened.training) == [f"BraTS-GLI-0000{n}-000" for n in (0, 2, 4)]


def test_named_test_cases_are_taken_from_the_named_cases(hospital: Hospital, tmp_path: Path) -> None:
    cases = ("BraTS-GLI-00000-000", "BraTS-GLI-00003-000", "BraTS-GLI-00001-001")
    site = Site("north", "brats2023-gli", hospital.site.path, cases, cases[2:])
    opened = open_hospital(site, CONFIG, tmp_path / "cache")
    assert [cached.case.name for cached in opened.test] == ["BraTS-GLI-00001-001"]
    assert [cached.case.name for cached in opened.training] == ["BraTS-GLI-00000-000", "BraTS-GLI-00003-000"]


@pytest.mark.parametrize(
    ("held_out", "says"),
    [
        (("BraTS-GLI-00009-000",), "no case BraTS-GLI-00009-000 here"),
        (("BraTS-GLI-00001-000",), "BraTS-GLI-00001-001, BraTS-GLI-00001-002: another scan of this patient"),
    ],
)
def test_a_bad_hold_out_is_refused_before_anything_is_prepared(
    hospital: Hospital, tmp_path: Path, held_out: tuple[str, ...], says: str
) -> None:
    site = Site("north", "brats2023-gli", hospital.site.path, (), held_out)
    with pytest.raises(DataError, match=f"^site north: test_cases: {says}"):
        open_hospital(site, CONFIG, tmp_path / "empty cache")
    assert not (tmp_path / "empty cache").exists()


def test_hospital_of_one_patient_is_refused(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    write_case(tmp_path / "scans", draw_volumes())
    with pytest.raises(DataError) as caught:
        open_hospital(Site("north", "brats2021", str(tmp_path / "scans")), CONFIG, tmp_path / "cache")
    assert str(caught.value) == ("site north: 1 patient cannot be split into training and test; at least 2 are needed")


def test_unusable_case_is_refused_naming_site_and_file(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    for number in range(2):
        case = write_case(tmp_path / "scans", draw_volumes(number), name=f"BraTS2021_0000{number}")
    damaged = case / "BraTS2021_00001_t2.nii.gz"
    damaged.write_bytes(b"gone")
    with pytest.raises(DataError, match=f"^site north: {re.escape(str(damaged))}: not a readable NIfTI file"):
        open_hospital(Site("north", "brats2021", str(tmp_path / "scans")), CONFIG, tmp_path / "cache")


def _spoil(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name / f"{name}-t2f.nii.gz").write_bytes(b"gone")


def test_every_unusable_case_is_refused_at_once_naming_site_and_file(hospital: Hospital, tmp_path: Path) -> None:
    folder = Path(hospital.site.path)
    _spoil(folder, "BraTS-GLI-00000-000", "BraTS-GLI-00003-000")
    (folder / "BraTS-GLI-00004-000" / "BraTS-GLI-00004-000-seg.nii.gz").unlink()
    with pytest.raises(BadCasesError) as caught:
        open_hospital(hospital.site, CONFIG, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"site north: {folder}/") for line in lines)
    assert {line.split("/")[-2] for line in lines} == {f"BraTS-GLI-0000{n}-000" for n in (0, 3, 4)}


@pytest.mark.parametrize("validating", [False, True], ids=["two sides", "three sides"])
@pytest.mark.parametrize("named", [False, True], ids=["shares are held out", "cases are held out by name"])
def test_everybody_stays_on_their_side_where_bad_cases_are_skipped(
    hospital: Hospital, tmp_path: Path, named: bool, validating: bool
) -> None:
    """A hospital of five patients loses a scan of each side that has two."""
    folder = Path(hospital.site.path)
    site = Site("north", "brats2023-gli", str(folder))
    config = CONFIG.replace({"data.test_share": 0.4, "data.validation_share": 0.4 if validating else 0.0})
    whole = open_hospital(site, config, tmp_path / "cache")
    sides: dict[str, list[str]] = {
        side: [cached.case.name for cached in getattr(whole, side)] for side in ("training", "validation", "test")
    }
    assert [len({c.case.patient for c in cases}) for cases in (whole.test, whole.validation)] == [2, 2 * validating]
    if named:
        held_out = {"test_cases": tuple(sides["test"]), "validation_cases": tuple(sides["validation"])}
        site = Site("north", "brats2023-gli", str(folder), **held_out)
    bad = {side: names[0] for side, names in sides.items() if len(names) > 1}
    assert set(bad) >= {"test", "validation" if validating else "training"}
    _spoil(folder, *bad.values())

    left = open_hospital(site, config, tmp_path / "cache", skip_bad=True)

    for side, names in sides.items():
        assert [cached.case.name for cached in getattr(left, side)] == names[side in bad :]
    assert {case.role: case.case for case in left.skipped} == bad
    assert all(folder.name in fault for case in left.skipped for fault in case.faults)
    again = open_hospital(left.site, config, tmp_path / "cache")  # as a run that goes on opens it
    for side in sides:
        assert [cached.case for cached in getattr(again, side)] == [cached.case for cached in getattr(left, side)]


@pytest.mark.parametrize(
    ("which", "share", "what"),
    [
        ("test", 0.0, "training and testing"),
        ("training", 0.0, "training and testing"),
        ("validation", 0.2, "training, validation and testing"),
    ],
)
def test_a_hospital_that_has_nothing_left_of_a_side_says_so_with_every_reason(
    hospital: Hospital, tmp_path: Path, which: str, share: float, what: str
) -> None:
    config = CONFIG.replace({"data.validation_share": share})
    gone = [c.case.name for c in getattr(open_hospital(hospital.site, config, tmp_path / "cache"), which)]
    _spoil(Path(hospital.site.path), *gone)
    with pytest.raises(BadCasesError) as caught:
        open_hospital(hospital.site, config, tmp_path / "cache", skip_bad=True)
    first, *others = str(caught.value).splitlines()
    assert first == f"site north: too few usable cases for {what}"
    assert [line.split("/")[-2] for line in others] == gone
    assert [(fault.site, fault.case) for fault in caught.value.found] == [("north", name) for name in gone]


def test_slices_of_a_2d_set_are_exactly_those_with_brain(hospital: Hospital) -> None:
    training_set = _training_set(hospital)

    batch = training_set.batch(torch.arange(len(training_set)))

    assert len(training_set) == 6 * len(hospital.training)
    expected = [c.prepared.image[..., z] for c in hospital.training for z in range(5, 11)]  # 6 slices, centred in 16
    masks = [c.prepared.mask[..., z] for c in hospital.training for z in range(5, 11)]
    np.testing.assert_array_equal(batch.image.numpy(), np.stack(expected).astype(np.float32))
    np.testing.assert_array_equal(batch.truth.numpy(), np.stack(masks).astype(np.float32))
    assert batch.image.dtype == batch.truth.dtype == torch.float32
    assert not batch.mirrored


def test_items_of_a_3d_set_are_the_volumes(hospital: Hospital) -> None:
    training_set = _training_set(hospital, CONFIG_3D)

    batch = training_set.batch(torch.tensor([2, 0]))

    assert len(training_set) == len(hospital.training)
    assert batch.image.shape == (2, 4, 16, 16, 16)
    assert batch.truth.shape == (2, 3, 16, 16, 16)
    assert batch.index.tolist() == [2, 0]
    for item, number in enumerate((2, 0)):
        np.testing.assert_array_equal(batch.image[item], hospital.training[number].prepared.image)
        np.testing.assert_array_equal(batch.truth[item], hospital.training[number].prepared.mask)


@pytest.mark.parametrize(("size", "of_tumour"), [(32, 16), (7, 3), (1, 0)])
def test_half_of_a_draw_shows_tumour_and_the_rest_is_from_everywhere(
    hospital: Hospital, size: int, of_tumour: int
) -> None:
    training_set = _training_set(hospital)
    generator = torch.Generator().manual_seed(0)
    anywhere: list[torch.Tensor] = []
    for _ in range(30):
        index = training_set.draw(size, generator)
        shows_tumour = training_set.batch(index).truth.flatten(1).any(1)
        assert shows_tumour.shape == (size,)
        assert shows_tumour[:of_tumour].all()
        anywhere.append(shows_tumour[of_tumour:])
    share = torch.cat(anywhere).float().mean()
    assert 0.3 < share < 0.7  # 3 slices of 6 show tumour


def test_draw_reaches_every_item_and_repeats_by_its_generator(hospital: Hospital) -> None:
    training_set = _training_set(hospital)
    index = training_set.draw(2000, torch.Generator().manual_seed(0))
    assert set(index.tolist()) == set(range(len(training_set)))
    assert torch.equal(index, training_set.draw(2000, torch.Generator().manual_seed(0)))
    assert not torch.equal(index, training_set.draw(2000, torch.Generator().manual_seed(1)))


def test_draw_from_patients_without_tumour_is_from_everywhere(
    tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]
) -> None:
    for number in range(2):
        volumes = draw_volumes(number)
        volumes["seg"][:] = 0
        write_case(tmp_path / "scans", volumes, name=f"BraTS2021_0000{number}")
    site = Site("north", "brats2021", str(tmp_path / "scans"))
    training_set = _training_set(open_hospital(site, CONFIG, tmp_path / "cache"))

    index = training_set.draw(200, torch.Generator().manual_seed(0))

    assert set(index.tolist()) == set(range(6))
    assert not training_set.batch(index).truth.any()


@pytest.mark.parametrize("config", [CONFIG, CONFIG_3D], ids=["2D", "3D"])
def test_mirror_turns_left_and_right_of_image_and_truth_only(hospital: Hospital, config: Settings) -> None:
    batch = _training_set(hospital, config).batch(torch.tensor([1, 3]))

    mirrored = batch.mirror()

    np.testing.assert_array_equal(mirrored.image.numpy(), batch.image.numpy()[:, :, ::-1])
    np.testing.assert_array_equal(mirrored.truth.numpy(), batch.truth.numpy()[:, :, ::-1])
    assert not torch.equal(mirrored.image, batch.image)
    assert mirrored.index is batch.index
    assert mirrored.mirrored
    assert torch.equal(mirrored.mirror().image, batch.image)
    assert not mirrored.mirror().mirrored
