import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedserdiff.errors import BadCasesError, DataError
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, TrainingSet, open_hospital

Volumes = dict[str, NDArray[Any]]
CONFIG = make_settings(
    "smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0}
)  # holds the tiny volumes at their own size
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
        (("BraTS-GLI-00001-000",), "BraTS-GLI-00001-001, BraTS-GLI-00001-002: of a patient whose other scan"),
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


@pytest.mark.parametrize("named", [False, True], ids=["a share is held out", "test_cases are held out"])
def test_who_is_tested_on_stays_so_where_bad_cases_are_skipped(hospital: Hospital, tmp_path: Path, named: bool) -> None:
    """A hospital of five patients, two of whom are held out, loses a scan of one of them, and one of another's."""
    folder = Path(hospital.site.path)
    site = Site("north", "brats2023-gli", str(folder))
    config = CONFIG.replace({"data.test_share": 0.4})
    whole = open_hospital(site, config, tmp_path / "cache")
    tested, trained = ([cached.case.name for cached in cases] for cases in (whole.test, whole.training))
    assert len({cached.case.patient for cached in whole.test}) == 2
    if named:
        site = Site("north", "brats2023-gli", str(folder), (), tuple(tested))
    _spoil(folder, tested[0])
    (folder / trained[1] / f"{trained[1]}-seg.nii.gz").unlink()

    left = open_hospital(site, config, tmp_path / "cache", skip_bad=True)

    assert [cached.case.name for cached in left.test] == tested[1:]
    assert [cached.case.name for cached in left.training] == [trained[0], *trained[2:]]
    assert {(case.case, case.role) for case in left.skipped} == {(tested[0], "test"), (trained[1], "training")}
    assert all(folder.name in fault for case in left.skipped for fault in case.faults)
    again = open_hospital(left.site, config, tmp_path / "cache")  # as a run that goes on opens it
    assert [cached.case for cached in again.test] == [cached.case for cached in left.test]
    assert [cached.case for cached in again.training] == [cached.case for cached in left.training]


@pytest.mark.parametrize("which", ["test", "training"])
def test_a_hospital_that_has_nothing_left_to_test_or_train_on_says_so_with_every_reason(
    hospital: Hospital, tmp_path: Path, which: str
) -> None:
    gone = [cached.case.name for cached in getattr(hospital, which)]
    _spoil(Path(hospital.site.path), *gone)
    with pytest.raises(DataError) as caught:
        open_hospital(hospital.site, CONFIG, tmp_path / "cache", skip_bad=True)
    first, *others = str(caught.value).splitlines()
    assert first == "site north: too few cases can be used to train and to test on"
    assert [line.split(": ")[2].partition(",")[0] for line in others] == gone


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
